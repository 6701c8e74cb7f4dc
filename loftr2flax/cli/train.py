"""`loftr2flax train dense` and `train match`: the loop of `loftr2flax.training`, told as it goes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from loftr2flax.cli import options
from loftr2flax.cli.gathered import gathered
from loftr2flax.cli.output import emit, emit_json, name_of, plural, say, step_bar
from loftr2flax.cli.processes import join, stdout_for_us
from loftr2flax.extras import needed
from loftr2flax.training.config import DenseConfig, MatchConfig, TrainConfig

if TYPE_CHECKING:
    from loftr2flax.training.images import ImageSet
    from loftr2flax.training.loop import Outcome
    from loftr2flax.training.start import Loaded

app = typer.Typer(no_args_is_help=True, help="Train IFViT's modules in JAX, started by converted weights.")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A YAML file with any of the keys below.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, exactly.")]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print the config as YAML and stop.")]
Processes = Annotated[
    str | None,
    typer.Option(
        "--distributed",
        metavar="HOST:PORT,N,RANK",
        help="Be process RANK of N, which meet at HOST:PORT; 'auto' on a cluster that says so itself.",
    ),
]


def _verb(name: str, kind: type[TrainConfig], about: str) -> Callable[..., None]:
    """`train dense` or `train match`: each key of the config is an option."""

    def train(
        config: ConfigFile = None,
        resume: Resume = False,
        show_config: ShowConfig = False,
        distributed: Processes = None,
        *,
        limits: options.Limits,
        json: options.Json = False,
        quiet: options.Quiet = False,
        changes: dict[str, Any],
    ) -> None:
        _train(name, kind.from_sources(config, changes), resume, show_config, distributed, limits, json)

    train.__doc__ = about
    return options.limited(gathered(train, "changes", {one.name: _option(one) for one in fields(kind)}, _given))


def _given(**changes: str | None) -> dict[str, str]:
    return {name: value for name, value in changes.items() if value is not None}


def _option(one: Any) -> Any:
    """``--image-size``, and ``--image_size``, as IFViT-JAX spells it."""
    flags = dict.fromkeys((f"--{one.name.replace('_', '-')}", f"--{one.name}"))
    aliases = {"num_epochs": ("--epochs",)}.get(one.name, ())
    default = _yaml_value(one.default)
    text = f"{one.metadata['about'][:1].upper()}{one.metadata['about'][1:]}. Default: {default or 'none'}."
    return Annotated[str | None, typer.Option(*flags, *aliases, metavar="VALUE", help=text, show_default=False)]


def _train(
    verb: str,
    config: TrainConfig,
    resume: bool,
    show: bool,
    distributed: str | None,
    limits: options.Limits,
    json: bool,
) -> None:
    if show:
        _show(verb, config, json)
        return
    with needed("training", "train", "jax", "flax", "optax", "orbax", "grain", "scipy", "PIL", "matplotlib"):
        import jax

        join(distributed)
        from loftr2flax.training import loop
    task: Any = loop.dense_task if verb == "dense" else loop.match_task
    with step_bar() as bar, stdout_for_us(jax.process_count() > 1):
        outcome = loop.train(config, task, resume=resume, watcher=_talker(verb, config, bar), limits=limits)
    if json:
        emit_json(f"train.{verb}", _describe(outcome, config))
    _conclude(outcome)
    if outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)


def _show(verb: str, config: TrainConfig, json: bool) -> None:
    if json:
        emit_json(f"train.{verb}", {"config": config.to_json(), "outcome": None})
        return
    for name, value in config.to_json().items():
        emit(f"{name}: {_yaml_value(value) or repr('')}")


def _yaml_value(value: Any) -> str:
    """A value as YAML has it; a text that would be read as something else is quoted."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_yaml_value(entry) or repr('') for entry in value)}]"
    if not isinstance(value, str) or not value:
        return str(value).lower() if isinstance(value, bool) else str(value)
    try:
        plain = yaml.safe_load(f"k: {value}\nl: [{value}]") == {"k": value, "l": [value]}
    except (yaml.YAMLError, ValueError):
        plain = False
    return value if plain else yaml.safe_dump(value, default_style='"', width=1 << 20).rstrip("\n")


def _talker(verb: str, config: TrainConfig, bar: Callable[[int, int, str], None] | None) -> Any:
    from loftr2flax.training.loop import Watcher

    class Talker(Watcher):
        def began(self, images: ImageSet, loaded: Loaded | None, devices: int, processes: int) -> None:
            _tell_start(config, images, loaded)
            say(f"{plural(devices, 'device')}, {plural(processes, 'process', 'processes')}")

        def stepped(self, step: int, steps: int, loss: float) -> None:
            if bar is not None:
                bar(step, steps, f"loss {loss:.4g}")

        def evaluated(self, epoch: int, figures: dict[str, float]) -> None:
            say(f"epoch {epoch:>3}  " + "  ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    return Talker()


def _tell_start(config: TrainConfig, images: ImageSet, loaded: Loaded | None) -> None:
    for name, value, _ in config.rows():
        say(f"  {name:<22} {value}")
    say(images.about)
    if images.skipped:
        say(f"note: {plural(len(images.skipped), 'file')} skipped, which cannot be read:")
        for line in images.skipped:
            say(f"  {name_of(line)}")
    if loaded is None:
        say("resumed: the weights are those of the last checkpoint")
        return
    names = [name_of(row.part) for row in loaded.rows]
    width = max(map(len, names))
    for name, row in zip(names, loaded.rows, strict=True):
        why = f": {row.why}" if row.why else ""
        say(f"  {name:<{width}}  {row.leaves:>4} leaves {row.numbers:>11,} numbers  {row.state}{why}")
    for note in loaded.notes:
        say(f"note: {name_of(note)}")


def _conclude(outcome: Outcome) -> None:
    names = [name for name in outcome.last if name not in ("kind", "step", "epoch")]
    for name in names:
        then, now = _number(outcome.first.get(name)), _number(outcome.last[name])
        say(f"{name.replace('_', ' ')}: {then} at the start, {now} now")
    speed = f", {outcome.images_per_second:.1f} images/s" if outcome.images_per_second else ""
    files = "weights.npz, metrics.jsonl and curves.png"
    say(f"step {outcome.step} of {outcome.steps}{speed}; {files} are in {outcome.folder}")
    if outcome.signal is not None:
        say(f"note: {signal.Signals(outcome.signal).name}: the state is saved; `--resume` goes on")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _describe(outcome: Outcome, config: TrainConfig) -> dict[str, Any]:
    return {
        "config": config.to_json(),
        "outcome": {
            "folder": str(outcome.folder),
            "step": outcome.step,
            "steps": outcome.steps,
            "resumed": outcome.resumed,
            "signal": outcome.signal,
            "images_per_second": outcome.images_per_second,
            "metrics": outcome.rows,
        },
    }


_DENSE = "Module 1, dense registration: on synthetic prints, or on a folder of images, from scratch or from a LoFTR."
_MATCH = "Module 2, embeddings of fixed length, from the weights that Module 1's training wrote."
app.command("dense")(_verb("dense", DenseConfig, _DENSE))
app.command("match")(_verb("match", MatchConfig, _MATCH))

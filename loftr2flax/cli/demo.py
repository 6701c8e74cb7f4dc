"""`loftr2flax demo`: the other verbs, once, on a small trained LoFTR that ships with the package."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from loftr2flax.cli import options
from loftr2flax.cli.output import emit, emit_json, name_of, say
from loftr2flax.errors import EnvironmentFault, Loftr2FlaxError


class DemoFailed(Loftr2FlaxError):
    """A step of the demonstration did not end as it should: a bug of ours."""

    exit_code = 70


class _Show:
    """The commands of the demonstration, shown as they are run, or gathered in ``steps`` for one document."""

    def __init__(self, place: Path, json: bool) -> None:
        self.place = place
        self.json = json
        self.steps: list[dict[str, Any]] = []

    def remark(self, text: str) -> None:
        """A line between two commands."""
        if not self.json:
            emit(text)

    def step(self, command: str, expect: int = 0) -> None:
        """Runs one command as a user would; as text, its talk and its data in the order in which they come."""
        import json
        import subprocess

        self.remark(f"$ loftr2flax {command}")
        program = [sys.executable, "-m", "loftr2flax", *shlex.split(command), *(["--json"] if self.json else [])]
        done = subprocess.run(
            program,
            cwd=self.place,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self.json else subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        self.remark(done.stdout.rstrip("\n") + (f"\n[exit {expect}]" if expect else "") + "\n")
        if done.returncode != expect:
            say(done.stderr or "")
            raise DemoFailed(f"`{command}` ended with {done.returncode}, not {expect}", "please report it")
        if self.json:
            document = json.loads(done.stdout)
            self.steps.append({"command": f"loftr2flax {command}", "exit_code": expect, "document": document})


def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to leave the files; a temporary folder without it.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Inspect, convert, check, reverse and run a small LoFTR checkpoint, and see two mistakes caught."""
    import shutil

    from loftr2flax.tiny import TINY, tiny_checkpoint

    with _place(folder) as place:
        show = _Show(place, json)
        if any(place.iterdir()):
            raise EnvironmentFault(f"{place}: is not empty", "name a new folder with --folder")
        shutil.copyfile(tiny_checkpoint(), place / TINY)
        show.remark("# A small trained LoFTR, in the layout of the published checkpoints.")
        show.step("inspect loftr_tiny.ckpt")
        show.remark("# Every tensor has its place in the Flax tree; the shapes of some could not show a mistake.")
        show.step("convert loftr_tiny.ckpt -m loftr -o loftr.npz")
        show.step("verify weights loftr_tiny.ckpt loftr.npz")
        show.step("mapping explain matcher.loftr_coarse.layers.2.mlp.0.weight -m loftr -f loftr_tiny.ckpt")
        show.remark("# The layout that IFViT-JAX loads: one torch layer, two Flax sublayers.")
        show.step("convert loftr_tiny.ckpt -m ifvit_jax -o loftr_transformer.npz")
        show.remark("# The prefix that its guide gives is in no official file: nothing is written.")
        show.step(
            "convert loftr_tiny.ckpt -m ifvit_jax -o wrong.npz --prefix loftr_coarse.coarse_transformer",
            expect=3,
        )
        show.remark("# One number of the conversion changed by hand:")
        _change_one_number(place / "loftr.npz", place / "changed.npz")
        show.step("verify weights loftr_tiny.ckpt changed.npz -m loftr", expect=1)
        show.remark(
            "# And back: the file that torch.load reads, bit for bit, in the order and with the counters that it had."
        )
        show.step("convert loftr.npz --reverse -o back.ckpt")
        returned = _compare(place / TINY, place / "back.ckpt")
        show.remark(
            f"{returned} of {returned} tensors came back equal in every bit, under the same keys in the same order."
        )
        lacking = [name for name in ("torch", "kornia", "jax", "flax", "PIL") if find_spec(name) is None]
        _run_the_networks(show, lacking)
        if json:
            kept = None if folder is None else str(folder)
            emit_json("demo", {"folder": kept, "steps": show.steps, "returned": returned, "lacking": lacking})
        elif folder is not None:
            emit(f"The files are in {name_of(str(folder))}.")


def _run_the_networks(show: _Show, lacking: list[str]) -> None:
    """Both networks on the same inputs, and the Flax one at work; where the libraries for it are installed."""
    if lacking:
        show.remark(
            f"# Not shown, since {' and '.join(lacking)} are not installed: `pip install 'loftr2flax[parity]'`."
        )
        return
    show.remark(
        "# The same numbers are not yet the same function: both networks run, and torch's own rounding error judges."
    )
    show.step("verify parity loftr_tiny.ckpt loftr.npz --sizes 96x136 --report report.html")
    show.remark("# The converted network at work, on two views of a made scene that it has never seen.")
    _draw_views(show.place)
    show.step("match view0.png view1.png -c loftr.npz --top 24 --draw matches.png")


def _draw_views(place: Path) -> None:
    import numpy as np
    from PIL import Image

    from loftr2flax.parity.inputs import textured_pair

    for number, view in enumerate(textured_pair(0, (240, 320), (240, 320))):
        Image.fromarray(np.round(255 * view).astype(np.uint8)).save(place / f"view{number}.png")


@contextlib.contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="loftr2flax-demo-") as temporary:
        yield Path(temporary)


def _change_one_number(source: Path, changed: Path) -> None:
    import numpy as np

    with np.load(source) as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    kernel = leaves["params/loftr_coarse/layers_2/mlp_0/kernel"]
    kernel[3, 5] = np.nextafter(kernel[3, 5], np.float32(np.inf))
    np.savez(changed, **leaves)


def _compare(original: Path, back: Path) -> int:
    """How many tensors came back: all of them, with their keys in order."""
    from loftr2flax.formats import open_checkpoint

    with open_checkpoint(original) as one, open_checkpoint(back) as two:
        equal = sum(one.read(name).tobytes() == two.read(name).tobytes() for name in two.infos if name in one.infos)
        if list(one.infos) != list(two.infos) or equal != len(one.infos):
            raise DemoFailed(f"{len(one.infos) - equal} tensors did not come back", "please report it")
    return equal

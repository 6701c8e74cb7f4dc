"""What `verify parity` catches, leaf by leaf and mistake by mistake: the table of docs/detection.md.

Two detectors are measured apart. *Bits* compares every leaf with the tensor that the mapping names, before any run.
*Run* knows nothing of the file: it is r of the stage by itself, and would catch the same mistake in a network whose
weights nobody can compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.document import before_heading
from benchmarks.side_by_side import folder

SIZES = ((96, 136),)
HEADS = 4
LAYERS = 8
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "detection.md"
FALSE_ALARMS = "## False alarms"


@dataclass(frozen=True)
class Trial:
    """One corruption: its kind, the stage it is in, whether bits show it, r of the stage, and whether the run fails."""

    kind: str
    stage: str
    bits: bool | None
    ratio: float
    run: bool


def sample(seed: int) -> Path:
    """A folder with ``small.ckpt`` of one seed and its conversions."""
    from loftr2flax.convert import convert_checkpoint
    from tools.sample import SampleSizes, write_sample

    place = folder() / "detection" / str(seed)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "ifvit_jax.npz").exists():
        (place / "small.ckpt").unlink(missing_ok=True)
        write_sample(place / "small.ckpt", seed, SampleSizes((16, 24, 32), 32, LAYERS, 16, 2))
        for name in ("loftr", "ifvit_jax"):
            facts = {"heads": HEADS}
            convert_checkpoint(place / "small.ckpt", place / f"{name}.npz", name, facts=facts, force=True)
    return place


class Bench:
    """One network with what torch says of it, against which changed candidates are judged stage by stage."""

    def __init__(self, mapping: str) -> None:
        from loftr2flax.parity.loftr import subject
        from loftr2flax.parity.source import opened

        place = sample(0)
        with opened(place / "small.ckpt", place / f"{mapping}.npz", None, {}, None, None) as pair:
            self.config = subject.config_of(pair.infos(), pair.facts)
            whole = mapping == "loftr"
            part = subject.torch_part(pair.state(), self.config, (), 0, SIZES, coarse_only=not whole)
            self.variables = pair.variables()
            self.explain: Any = part.explain
        self.records = [part.record(feed) for feed in part.feeds]

    def judge(self, stage: str, candidate: Any) -> tuple[float, bool]:
        """The largest r of the stage by itself, and whether `verify parity` would fail it."""
        from loftr2flax.parity.culprit import hold_against_mistakes
        from loftr2flax.parity.judge import judge
        from loftr2flax.parity.run import Replay
        from loftr2flax.parity.values import InputsInfo, PairRun, StageRow

        ratio, failed = 0.0, False
        for record in self.records:
            made = candidate.stage(stage, record.given())
            names = [name for name in record.stages[stage] if name != "matches"]
            own = [judge(name, made[name], record.alone[name], record.own[name]) for name in names]
            run = PairRun(InputsInfo("", "", {}), (StageRow(stage, (), tuple(own)),))
            run = hold_against_mistakes(run, self.explain, record, Replay((), made, made))
            ratio = max(ratio, *(judgement.ratio for judgement in own))
            failed = failed or run.stages[0].wrong_by_itself
        return ratio, failed


def leaf_trials(bench: Bench) -> Iterator[Trial]:
    """One corruption of one leaf (or of a pair) at a time."""
    from loftr2flax.parity.loftr.flax_side import FlaxLoFTR

    for number in range(LAYERS):
        stage, own = f"loftr_coarse/layers.{number}", bench.variables["params"]["loftr_coarse"][f"layers_{number}"]
        for kind, changed in _corruptions(own, number):
            tree = _replaced(bench.variables, ("params", "loftr_coarse", f"layers_{number}"), changed)
            yield Trial(kind, stage, not _same(own, changed), *bench.judge(stage, FlaxLoFTR(bench.config, tree)))
    stats = bench.variables["batch_stats"]["backbone"]
    for kind, changed in _other_statistics(stats):
        tree = _replaced(bench.variables, ("batch_stats", "backbone"), changed)
        found = bench.judge("backbone", FlaxLoFTR(bench.config, tree))
        yield Trial(kind, "backbone", not _same(stats, changed), *found)


def _corruptions(layer: Mapping[str, Any], number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every corruption of an encoder layer's leaves: its kind and the layer so changed."""
    rng = np.random.default_rng(number)
    for module, leaves in layer.items():
        for name, leaf in leaves.items():

            def put(new: np.ndarray, module: str = module, name: str = name) -> dict[str, Any]:
                return {**layer, module: {**layer[module], name: np.ascontiguousarray(new, np.float32)}}

            if leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1]:
                yield "a square matrix transposed", put(leaf.T)
            bound = np.sqrt(6 / sum(leaf.shape))
            start = {"kernel": rng.uniform(-bound, bound, leaf.shape), "scale": np.ones(leaf.shape)}
            yield "a leaf at its initial value", put(start.get(name, np.zeros(leaf.shape)))
            one = leaf.copy()
            place = tuple(int(rng.integers(size)) for size in leaf.shape)
            one[place] *= np.float32(1.001)
            yield "one element changed by 1e-3 of itself", put(one)
            if module in ("q_proj", "k_proj", "v_proj"):
                heads = leaf.reshape(leaf.shape[0], HEADS, -1)[:, [1, 0, *range(2, HEADS)]]
                yield "attention heads reordered", put(heads.reshape(leaf.shape))
            if module == "merge":
                heads = leaf.reshape(HEADS, -1, leaf.shape[1])[[1, 0, *range(2, HEADS)]]
                yield "attention heads reordered", put(heads.reshape(leaf.shape))
    for one_name, other in (("q_proj", "k_proj"), ("q_proj", "v_proj"), ("k_proj", "v_proj")):
        yield "two projections swapped", {**layer, one_name: layer[other], other: layer[one_name]}


def _other_statistics(stats: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each running mean and variance taken from the next layer that has as many channels."""
    flat = {f"{path}/{name}": leaf for path, name, leaf in _statistics(stats)}
    for path, leaf in flat.items():
        name = path.rpartition("/")[2]
        others = [p for p, value in flat.items() if p != path and p.endswith(name) and value.shape == leaf.shape]
        if others:
            later = [p for p in others if p > path] or others
            yield "BatchNorm statistics of another layer", _replaced(stats, tuple(path.split("/")), flat[later[0]])


def _statistics(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _statistics(value, f"{before}/{name}" if before else name)
        else:
            yield before, name, value


def network_trials(bench: Bench, coarse: Bench) -> Iterator[Trial]:
    """Mistakes in the computation, each in every stage in which it can be made."""
    from jax import lax

    from loftr2flax.models.loftr.layers import Convolution
    from loftr2flax.parity.loftr.flax_side import FlaxLoFTR
    from tests.parity.usual_late_mistakes import factory
    from tests.parity.usual_mistakes import PortedTransformer

    for mistake in ("eps 1e-6", "norm before the merge", "norm after the residual", "stale features", "full attention"):
        ported = PortedTransformer(coarse.variables, HEADS, frozenset({mistake}))
        for stage in ported.stage_names[1::2] if mistake == "stale features" else ported.stage_names:
            yield Trial(_TITLES[mistake], stage, None, *coarse.judge(stage, ported))
    for title, stage, change in (
        ("position encoding of the other kind", "pos_encoding", {"temp_bug_fix": True}),
        ("BatchNorm epsilon 1e-3", "backbone", {"batch_norm_eps": 1e-3}),
        ("temperature 1 instead of 0.1", "conf_matrix", {"temperature": 1.0}),
    ):
        candidate = FlaxLoFTR(replace(bench.config, **change), bench.variables)
        yield Trial(title, stage, None, *bench.judge(stage, candidate))

    for mistake, (title, stage) in _LATE.items():
        late = factory(mistake)(bench.variables, {"heads": HEADS})
        yield Trial(title, stage, None, *bench.judge(stage, late))

    def same(self: Any, x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(
            x, kernel, [self.stride] * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    with mock.patch.object(Convolution, "plain", same):
        candidate = FlaxLoFTR(replace(bench.config, capacity=77), bench.variables)  # nothing compiled serves this one
        yield Trial("padding SAME", "backbone", None, *bench.judge("backbone", candidate))


_TITLES = {
    "eps 1e-6": "LayerNorm epsilon 1e-6",
    "norm before the merge": "first norm before the merge",
    "norm after the residual": "second norm after the residual",
    "stale features": "stale features in cross attention",
    "full attention": "full attention instead of linear",
}

_LATE = {
    "one softmax": ("one softmax instead of two", "conf_matrix"),
    "corner": ("fine windows cut from a corner, not about a centre", "fine_preprocess"),
    "columns first": ("cells of a window listed by columns", "fine_preprocess"),
    "unfold order": ("unfold's channels taken for cells", "fine_preprocess"),
    "concat": ("coarse feature before the window in merge_feat", "fine_preprocess"),
    "early features": ("coarse feature of before the transformer", "fine_preprocess"),
    "y before x": ("expectation y, x", "expectation"),
    "from zero": ("coordinates 0 to 1 in the expectation", "expectation"),
    "one root": ("one root for both standard deviations", "expectation"),
}


def run() -> None:
    """Measures, prints, and writes docs/detection.md."""
    whole, coarse = Bench("loftr"), Bench("ifvit_jax")
    trials = [*leaf_trials(whole), *network_trials(whole, coarse)]
    rows = [
        _row(kind, [trial for trial in trials if trial.kind == kind]) for kind in dict.fromkeys(t.kind for t in trials)
    ]
    print("\n".join(rows))
    before_heading(DOCUMENT, FALSE_ALARMS, _document(rows))
    print(f"written to {DOCUMENT}")


def _row(kind: str, trials: list[Trial]) -> str:
    ratios = sorted(trial.ratio for trial in trials)
    by_bits = "—" if trials[0].bits is None else f"{sum(bool(trial.bits) for trial in trials)}"
    caught = sum(bool(trial.bits) or trial.run for trial in trials)
    seen = sum(trial.run for trial in trials)
    spread = f"{ratios[0]:.3g} … {ratios[-1]:.3g}"
    return f"| {kind} | {len(trials)} | {by_bits} | {seen} | {caught} of {len(trials)} | {spread} |"


def _document(rows: list[str]) -> str:
    table = "\n".join(rows)
    return f"""# What `verify parity` catches

Written by `python -m benchmarks detection`. The network is the project's own sample (`tools.sample`): a whole
LoFTR at 1/8 with random weights, backbone of 16, 24 and 32 channels, {LAYERS} coarse layers of width 32 with {HEADS}
heads, 2 fine layers of width 16. Images are made from a seed, {SIZES[0][0]}×{SIZES[0][1]}, once without and once with
masks.

Two detectors are counted apart. **Bits** compares every leaf with the tensor that the mapping names, before any run; it
cannot see a mistake in the code. **Run** is r of the stage by itself, from torch's own input; it does not look at the
weights. `verify parity` fails where either does.

| one mistake at a time | trials | bits | run | caught | r of the stage |
|---|---|---|---|---|---|
{table}

"A leaf at its initial value" is what Flax starts with: ones for a scale, zeros for a bias, a random matrix of the right
size for a kernel. For each of the coarse transformer's {LAYERS * 10} leaves it is one trial, and so is "one element
changed", at a random place. What the run alone misses is in the difference of the two columns: an element that is off
by a thousandth of itself can move every output by less than rounding does. That is why weights are compared bit for
bit as well.

Mistakes in the code are made by other ports of the stages (`usual_mistakes.py` and `usual_late_mistakes.py` in
`tests/parity/`), or in the Flax network's own config.
"""


def _replaced(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**tree, head: _replaced(tree[head], tuple(rest), value) if rest else value}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return all(_same(one[name], other[name]) for name in one)
    return bool(np.array_equal(one, other))

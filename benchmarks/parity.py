"""What `verify parity` costs on the full network, beside the forward passes that it cannot do without.

The passes are timed one stage at a time, each as often as a verdict needs it: a free run, and every stage from torch's
input. They are timed after the verdict, so that nothing is compiled in them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import folder

TITLES = {
    "oracle": "torch, float64",
    "reference": "torch, float32",
    "other": "torch, float32, computed otherwise",
    "candidate": "Flax, float32, compiled",
}


@dataclass
class Timed:
    """A network that counts the seconds spent in it."""

    network: Any
    seconds: float = field(default=0.0)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The network's."""
        names: tuple[str, ...] = self.network.stage_names
        return names

    def stage(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """One stage, timed."""
        started = time.perf_counter()
        made: dict[str, Any] = self.network.stage(name, given)
        self.seconds += time.perf_counter() - started
        return made


def full_size() -> tuple[Path, Path]:
    """A full-size checkpoint with random weights, and its conversion."""
    from loftr2flax.convert import convert_checkpoint
    from tools.sample import SampleSizes, write_sample

    place = folder() / "parity"
    place.mkdir(exist_ok=True)
    source, target = place / "full.ckpt", place / "full.npz"
    if not source.exists():
        write_sample(source, 0, SampleSizes((128, 196, 256), 256, 8, 128, 2))
    convert_checkpoint(source, target, "loftr", force=True)
    return source, target


def run() -> None:
    """Measures and prints."""
    import torch

    from loftr2flax.parity import verify_parity

    source, target = full_size()
    verify_parity(source, target, sizes=[(48, 56)])  # imports, and what is loaded once
    report = verify_parity(source, target)
    again = verify_parity(source, target)
    print(f"verify parity, the full LoFTR, {len(report.runs)} runs, {torch.get_num_threads()} threads")
    print(f"  whole verdict {report.seconds:.1f} s; again, with all compiled, {again.seconds:.1f} s")
    passes, gradients = _passes(source, target)
    total = sum(passes.values())
    for name, seconds in passes.items():
        print(f"    {TITLES[name]:36} {seconds:5.1f} s")
    print(f"    {'gradients in float64, for coverage':36} {gradients:5.1f} s")
    needed = total + gradients
    print(f"  passes {total:.1f} s, with gradients {needed:.1f} s")
    print(f"  the verdict takes {report.seconds / needed:.2f} times that, {again.seconds / needed:.2f} once compiled")


def _passes(source: Path, target: Path) -> tuple[dict[str, float], float]:
    """Seconds of each network's passes, and of the gradients."""
    from loftr2flax.parity.gradients import coverage
    from loftr2flax.parity.loftr import subject as loftr
    from loftr2flax.parity.run import replay
    from loftr2flax.parity.source import opened

    with opened(source, target, None, {}, None, None) as pair:
        config = loftr.config_of(pair.infos(), pair.facts)
        part = loftr.torch_part(pair.state(), config, (), 0, (), coarse_only=False)
        subject = loftr.loftr_subject(config, True, None)
        sides = {"oracle": Timed(part.oracle), "reference": Timed(part.reference), "other": Timed(part.others[0])}
        sides["candidate"] = Timed(subject.candidate(pair.variables()))
        timed = replace(part, oracle=sides["oracle"], reference=sides["reference"], others=(sides["other"],))
        records = [timed.record(feed) for feed in part.feeds]
        for record in records:
            replay(record, sides["candidate"], subject.apart)
        started = time.perf_counter()
        coverage(pair.plan.moves, pair.key, part.oracle, records, subject.outputs)  # type: ignore[arg-type]
        gradients = time.perf_counter() - started
    return {name: side.seconds for name, side in sides.items()}, gradients

"""How often `verify parity` calls a right conversion wrong: the last section of docs/detection.md."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.detection import DOCUMENT, FALSE_ALARMS
from benchmarks.document import from_heading

SEEDS = 100
SIZES = ((64, 88), (96, 136), (120, 104))
LIBRARIES = {"as it comes": {}, "`MKL_CBWR=COMPATIBLE`": {"MKL_CBWR": "COMPATIBLE"}}
"""What torch's library for matrix products is told, by environment variables."""


@dataclass(frozen=True)
class Subject:
    """A network of random weights, and the mapping that converts it.

    Attributes:
      title: for people.
      widths: of `SampleSizes`.
      mapping: a shipped one.
      heads: attention heads.
    """

    title: str
    widths: tuple[tuple[int, int, int], int, int, int, int]
    mapping: str
    heads: int


SUBJECTS = (
    Subject("the whole network, small", ((16, 24, 32), 32, 8, 16, 2), "loftr", 4),
    Subject("the coarse transformer at full width, 256", ((128, 196, 256), 256, 8, 128, 2), "loftr_coarse", 8),
    Subject("the whole network at full width", ((128, 196, 256), 256, 8, 128, 2), "loftr", 8),
)


@dataclass
class Sweep:
    """What many right conversions were said to be."""

    runs: int
    shares: list[float]
    alarms: list[str]


@contextmanager
def compiled_once() -> Iterator[None]:
    """Within it every program that jax compiles is kept, on disk: seeds differ in numbers only, and need no new one."""
    import jax

    with tempfile.TemporaryDirectory() as place:
        jax.config.update("jax_compilation_cache_dir", place)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        try:
            yield
        finally:
            jax.config.update("jax_compilation_cache_dir", None)


def sweep(subject: Subject) -> Sweep:
    """Every seed of one network: its runs, r of every array as a share of its limit, and the alarms."""
    from loftr2flax.convert import convert_checkpoint
    from loftr2flax.parity import verify_parity
    from tools.sample import SampleSizes, write_sample

    found = Sweep(0, [], [])
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as place:
            source, target = Path(place) / "sample.ckpt", Path(place) / "tree.npz"
            write_sample(source, seed, SampleSizes(*subject.widths))
            convert_checkpoint(source, target, subject.mapping, facts={"heads": subject.heads})
            report = verify_parity(source, target, seed=seed, sizes=SIZES)
        judged = [j for run in report.runs for row in run.stages for j in (*row.drift, *row.own)]
        found.runs += len(report.runs)
        found.shares += [judgement.excess for judgement in judged]
        found.alarms += [f"seed {seed}: {j.array}: {j.reason}" for j in judged if not j.passed]
        if not report.passed and all(judgement.passed for judgement in judged):
            found.alarms.append(f"seed {seed}: {report.culprit}")
        print(f"{subject.title}, seed {seed}: worst share of a limit so far {max(found.shares):.3f}", flush=True)
    return found


def order_of_sums(terms: int) -> float:
    """How many times the rounding error of torch's dense layer a plain loop makes, over sums of so many numbers."""
    import torch

    from loftr2flax.parity.loftr.rounding import InOrder

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(204, terms, generator=generator)
    weight = torch.randn(256, terms, generator=generator)
    exact = x.double() @ weight.double().T
    with torch.no_grad():
        single = torch.nn.functional.linear(x, weight)
        with InOrder():
            plain = torch.nn.functional.linear(x, weight)
    return float((plain - exact).square().mean().sqrt() / (single - exact).square().mean().sqrt())


def run() -> None:
    """Measures, prints, and writes the section."""
    rows = []
    alarms: list[str] = []
    for subject in SUBJECTS:
        with compiled_once():
            found = sweep(subject)
        alarms += found.alarms
        rows.append(_row(subject, found))
    sums = "\n".join(f"| {title} | {_by_library(variables)} |" for title, variables in LIBRARIES.items())
    from_heading(DOCUMENT, FALSE_ALARMS, _section(rows, alarms, sums))
    print(f"{len(alarms)} false alarms; written to {DOCUMENT}")


def _by_library(variables: dict[str, str]) -> str:
    code = "from benchmarks.false_alarms import order_of_sums as o; print(f'{o(256):.2f} | {o(512):.2f}')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _row(subject: Subject, found: Sweep) -> str:
    counted = f"{found.runs:,} | {len(found.shares):,} | {len(found.alarms)}"
    return f"| {subject.title} | {counted} | {max(found.shares):.2f} |"


def _section(rows: list[str], alarms: list[str], sums: str) -> str:
    table = "\n".join(rows)
    listed = "".join(f"- {alarm}\n" for alarm in alarms)
    sizes = ", ".join(f"{height}×{width}" for height, width in SIZES)
    return f"""Written by `python -m benchmarks false_alarms`. {SEEDS} seeds (weights and images), each at
{sizes} and once with masks, are right conversions; half of the arrays are judged in the free run
and half by themselves.

| | runs | arrays judged | false alarms | largest r, as a share of its limit |
|---|---|---|---|---|
{table}

{listed}A right port adds in another order than torch, and how well torch's library adds depends on the processor.
How many times torch's own rounding error a plain loop such as XLA's makes, in a dense layer that sums so many numbers:

| torch's library | 256 | 512 |
|---|---|---|
{sums}

Measured by torch as it comes, a right port of full width would use most of the limit, and fail on some machines.
So torch is run a second time with the sums of its dense layers and similarities in plain order and its convolutions as
matrix products, and the larger error is what r divides by.
"""

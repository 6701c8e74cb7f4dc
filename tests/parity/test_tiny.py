"""The trained LoFTR that ships: kornia and Flax find the same matches with it, and they are right."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from program import Outcome

from loftr2flax.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]


def test_what_it_is(call: Callable[..., Outcome]) -> None:
    """The demonstration's test has the rest: every stage within r 2, and its matches drawn."""
    assert tiny_checkpoint().stat().st_size < 2_000_000
    found = call("inspect", tiny_checkpoint()).out
    assert "LoFTR at 1/8, coarse: 4 layers of width 32, fine: 2 layers of width 16, dual softmax" in found


def test_pictures_under_a_known_homography() -> None:
    words = [sys.executable, "-m", "benchmarks.known_homography", str(tiny_checkpoint())]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    print(done.stdout)
    rows = re.findall(r"(\w+) +(\d+) matches, ([\d.]+) % within 3 pixels(.*)", done.stdout)
    assert [row[0] for row in rows] == ["camera", "astronaut", "coffee", "chelsea", "all"]
    assert {row[3].strip() for row in rows[:4]} == {"the same in kornia"}
    assert int(rows[-1][1]) > 400
    assert float(rows[-1][2]) > 70

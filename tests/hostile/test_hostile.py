"""Every hostile file through every verb that reads: its exit code and message are pinned, nothing of it runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.catalogue import load, read_pins, write_pins
from hostile.trial import VERBS, Program, attempt, outcome

PINS = Path(__file__).with_name("FAULTS.txt")
FAULTS = load()
_MEMORY = 300 << 20  # bytes over what the same verb takes for a file of six numbers
_SECONDS = 10.0  # of CPU: five times what `python -m hostile` measures at most, for machines that are slow or busy


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder))
        yield program
        program.close()


@pytest.fixture(scope="module")
def pins() -> dict[str, dict[str, tuple[int, str, str]]]:
    return read_pins(PINS.read_text("utf-8"))


def _verbs(name: str) -> tuple[str, ...]:
    """All of them; the large files go through one each, in turn: `python -m hostile` takes them through all."""
    small = not any(word in name for word in ("bomb", "million"))
    return VERBS if small else (VERBS[sorted(FAULTS).index(name) % len(VERBS)],)


@pytest.mark.parametrize("name", FAULTS)
def test_fault(program: Program, pins: dict[str, dict[str, tuple[int, str, str]]], tmp_path: Path, name: str) -> None:
    trial = attempt(program, name, tmp_path, _verbs(name))
    path = tmp_path / f"{name}.ckpt"
    for verb, run in trial.runs.items():
        assert outcome(run, path) == pins[name][verb], verb
        assert "Traceback" not in run.err
        assert run.err.count("error: ") == (run.code > 2 and run.code != 5)
        assert run.peak - program.baseline[verb] < _MEMORY, f"{verb} took {run.peak - program.baseline[verb]} bytes"
        assert run.seconds < _SECONDS, f"{verb} took {run.seconds} s"
    assert trial.left == [], "nothing was written, and no booby trap was sprung"
    assert not program.sprung


def test_every_fault_is_pinned(pins: dict[str, dict[str, tuple[int, str, str]]]) -> None:
    assert list(pins) == list(FAULTS)
    assert write_pins(pins) == PINS.read_text("utf-8")
    codes = {code for verbs in pins.values() for code, _, _ in verbs.values()}
    assert codes == {0, 1, 3, 5}
    for name, verbs in pins.items():
        for code, error, hint in verbs.values():
            assert bool(error) == bool(hint) == (code == 3), name


def test_the_booby_trap_works(tmp_path: Path) -> None:
    """Else that it stays unsprung would say nothing."""
    program = Program(tmp_path)
    FAULTS["pickle_calls_by_reduce"](tmp_path / "hostile.ckpt")
    script = "import sys, torch; sys.path.insert(0, '.'); torch.load('hostile.ckpt', weights_only=False)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False)
    assert program.sprung
    program.close()

"""One hostile file through every verb that reads, in a process whose path holds a booby trap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from formats.torch_files import Claim, Stored, write_checkpoint
from hostile.catalogue import FAULTS
from hostile.pickle_faults import TRAP

VERBS = ("inspect", "convert", "diff")
MAPPING = """
mapping: hostile/1
tensors:
  layer.weight [o i]: layer/kernel [i o]
let: {a: 2, b: 3}
drop:
  other? [a b]: 0.0
"""
_SPRUNG = "sprung"
_LONG = 500
_TRAP = f"""
import pathlib
pathlib.Path(__file__).with_name({_SPRUNG!r}).write_text("imported")
def go(*args, **options):
    pathlib.Path(__file__).with_name({_SPRUNG!r}).write_text("called")
"""


class Run(NamedTuple):
    """What one run of the program ended with, and took."""

    code: int
    out: str
    err: str
    peak: int
    seconds: float


class Program:
    """The runner, started once."""

    def __init__(self, folder: Path) -> None:
        (folder / f"{TRAP}.py").write_text(_TRAP)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "PYTHONWARNINGS": "error"}
        words = [sys.executable, str(Path(__file__).with_name("runner.py"))]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.folder = folder
        sound = write_checkpoint(folder / "sound.ckpt", {"layer.weight": Claim(Stored(), (2, 3), (3, 1))})
        np.savez(folder / "sound.npz", **{"layer/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T})
        self.baseline = {verb: self.run(_words(verb, sound, folder, tree=False), folder).peak for verb in VERBS}
        """Bytes that each verb takes at its peak, for a file of six numbers."""

    def run(self, words: list[str], cwd: Path) -> Run:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": words, "cwd": str(cwd)}) + "\n")
        self._process.stdin.flush()
        return Run(**json.loads(self._process.stdout.readline()))

    @property
    def sprung(self) -> bool:
        """Whether the booby trap was imported, or called."""
        return (self.folder / _SPRUNG).exists()

    def close(self) -> None:
        self._process.communicate()


class Trial(NamedTuple):
    """One fault through all verbs.

    Attributes:
      runs: by verb.
      left: what else lies in the folder afterwards, or lies there changed.
    """

    runs: dict[str, Run]
    left: list[str]


def attempt(program: Program, name: str, folder: Path, verbs: Sequence[str] = VERBS) -> Trial:
    """Makes the file of the fault in an empty folder and runs the verbs on it."""
    path = folder / f"{name}.ckpt"
    FAULTS[name](path)
    (folder / "own.yaml").write_text(MAPPING)
    before = {entry.name: entry.stat().st_mtime_ns for entry in folder.iterdir()}
    tree = name.startswith(("npz_", "msgpack_"))
    runs: dict[str, Run] = {}
    for verb in verbs:
        words = _words(verb, path, program.folder, tree=tree)
        runs[verb] = program.run(words, folder)
        out = folder / words[-1]
        if verb == "convert" and runs[verb].code == 0:
            out.unlink()
    after = {entry.name: entry.stat().st_mtime_ns for entry in folder.iterdir()}
    return Trial(runs, sorted(dict(before.items() ^ after.items())))


def _words(verb: str, path: Path, folder: Path, *, tree: bool) -> list[str]:
    if verb == "convert":
        own = path.with_name("own.yaml")
        if not own.exists():
            own.write_text(MAPPING)
        back = ["--reverse"] if tree else []
        return ["convert", str(path), "-q", "--force", "-m", "own.yaml", *back, "-o", "out.pt" if tree else "out.npz"]
    if verb == "diff":
        return ["diff", str(path), str(folder / ("sound.npz" if tree else "sound.ckpt"))]
    return [verb, str(path)]


def outcome(run: Run, path: Path) -> tuple[int, str, str]:
    """Exit code, error and hint; ``FILE`` stands for the path, and for its folder's other files their names."""
    said = {"error": "", "hint": ""}
    for line in run.err.splitlines():
        word, _, text = line.partition(": ")
        if word in said:
            said[word] += text.replace(str(path), "FILE").replace(f"{path.parent}/", "").replace(str(path.parent), ".")
    error = said["error"]  # of a long one, its ends
    return run.code, error if len(error) < _LONG else f"{error[:100]} … {error[-100:]}", said["hint"]

"""A conversion to disturb: its input, its output before and after, and the judgement of what is left of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = [sys.executable, "-m", "loftr2flax"]
OLD = b"what was there before"


@dataclass(frozen=True)
class Conversion:
    """One conversion into a folder of its own, over a file that is there.

    Attributes:
      folder: where it runs; it holds the input and the old output.
      words: its arguments.
      outputs: name -> the bytes of every file that it writes, the one that was asked for first.
    """

    folder: Path
    words: tuple[str, ...]
    outputs: dict[str, bytes]

    @property
    def output(self) -> str:
        """The name of the file that was asked for."""
        return next(iter(self.outputs))

    def prepare(self) -> None:
        """The folder as it is before: the old output, and nothing of a new one."""
        for name in self.outputs:
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / self.output).write_bytes(OLD)

    def start(self, prefix: str = "", **options: object) -> subprocess.Popen[str]:
        """The program at work; ``prefix`` is Python code to run before it."""
        begin = f"{prefix}\nfrom loftr2flax.cli import main\nmain()"
        words = [sys.executable, "-c", begin] if prefix else PROGRAM
        return subprocess.Popen(
            [*words, *self.words], cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, **options,  # type: ignore[call-overload]
        )  # fmt: skip

    def judge(self, code: int, words: str) -> bool:
        """Whether the output is the new one; the old one otherwise, and nothing else in the folder either way."""
        names = set(os.listdir(self.folder)) - {"a.ckpt", "a.npz"}
        assert names <= set(self.outputs), f"left behind: {names - set(self.outputs)} {words}"
        found = (self.folder / self.output).read_bytes()
        assert found in (OLD, self.outputs[self.output]), f"neither old nor new: {words}"
        whole = found != OLD
        assert whole or code, f"nothing was done, and the exit code says yes: {words}"
        for name in list(self.outputs)[1:]:
            beside = self.folder / name
            assert not beside.exists() or beside.read_bytes() == self.outputs[name], f"{name}: {words}"
            assert beside.exists() or not whole, f"{name} is missing: {words}"
        return whole


def made(folder: Path, command: str) -> Conversion:
    """The conversion that ``command`` is, run once undisturbed to know what it writes."""
    words = ("convert", *shlex.split(command), "--force", "--quiet")
    before = set(os.listdir(folder))
    subprocess.run([*PROGRAM, *words], cwd=folder, check=True)
    asked = words[words.index("-o") + 1]
    names = sorted(set(os.listdir(folder)) - before, key=lambda name: name != asked)
    return Conversion(folder, words, {name: (folder / name).read_bytes() for name in names})

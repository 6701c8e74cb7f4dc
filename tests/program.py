"""The program under test: run as a process of its own, or inside this one where a process adds nothing."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The text of the one ``error:`` line."""
        return self._only("error: ")

    @property
    def hint(self) -> str:
        """The text of the one ``hint:`` line."""
        return self._only("hint: ")

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out, parse_constant=_no_number)

    def _only(self, word: str) -> str:
        (line,) = (line for line in self.err.splitlines() if line.startswith(word))
        return line.removeprefix(word)


def _no_number(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def run_program(
    *arguments: object, cwd: Path | None = None, prefix: str = "", entry: str = "main", **environment: str
) -> Outcome:
    """``python -m loftr2flax`` with these arguments.

    Args:
      prefix: Python code to run before it; the interpreter's end is an ordinary one then.
      entry: ``program`` to end as the console script does, prefix or not.
    """
    words = [sys.executable, *_start(prefix, entry), *map(str, arguments)]
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, check=False, encoding="utf-8"
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def on_terminal(*arguments: object, cwd: Path, columns: int) -> str:
    """What the program writes to a terminal of so many columns, without colours; its exit code is not looked at."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1"}
    subprocess.run([sys.executable, *_start("", ""), *map(str, arguments)], cwd=cwd, env=environment, stdout=theirs)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    return text.replace("\r\n", "\n")


def _start(prefix: str, entry: str) -> list[str]:
    return ["-c", f"{prefix}\nfrom loftr2flax.cli import {entry}\n{entry}()"] if prefix else ["-m", "loftr2flax"]


def words_of(command: str) -> list[str]:
    """The arguments of a command as a hint gives it, without the program's name."""
    program, *words = shlex.split(command)
    assert program == "loftr2flax", command
    return words

"""Shell completion: the protocol that the scripts of bash, zsh and fish speak, and bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import run_program

from loftr2flax.cli.app import VERBS


def bash(line: str, folder: Path) -> list[str]:
    """What bash is told of a line whose last word is being written."""
    words = line.split(" ")
    done = run_program(
        cwd=folder, _LOFTR2FLAX_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1)
    )
    assert done.code == 0, done.err
    return done.out.split()


def zsh(line: str, folder: Path) -> list[str]:
    """What zsh is told: a call of ``_arguments``, or of ``_files``."""
    done = run_program(cwd=folder, _LOFTR2FLAX_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert done.code == 0, done.err
    if done.out == "_files\n":
        return []
    inside = done.out.removeprefix("_arguments '*: :((").removesuffix("))'\n")
    return [entry.split('"')[1] for entry in inside.splitlines() if entry.startswith('"')]


def fish(line: str, folder: Path) -> list[str]:
    """What fish is told, if it is told to ask at all."""
    given = {"_LOFTR2FLAX_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": line}
    if run_program(cwd=folder, _TYPER_COMPLETE_FISH_ACTION="is-args", **given).code:
        return []
    done = run_program(cwd=folder, _TYPER_COMPLETE_FISH_ACTION="get-args", **given)
    return [entry.split("\t")[0] for entry in done.out.splitlines()]


@pytest.mark.parametrize("shell", [bash, zsh, fish])
def test_what_is_completed(shell: Callable[[str, Path], list[str]], tmp_path: Path) -> None:
    (tmp_path / "local.yaml").touch()
    (tmp_path / "a.ckpt").touch()
    assert sorted(shell("loftr2flax ", tmp_path)) == sorted(VERBS)
    assert shell("loftr2flax con", tmp_path) == ["convert"]
    assert shell("loftr2flax verify ", tmp_path) == ["parity", "weights"]
    assert shell("loftr2flax convert --dr", tmp_path) == ["--dry-run"]
    assert shell("loftr2flax convert a.ckpt -m lo", tmp_path) == ["loftr", "loftr_coarse", "local.yaml"]
    assert shell("loftr2flax mapping check if", tmp_path) == ["ifvit_jax"]
    assert shell("loftr2flax fetch outd", tmp_path) == ["outdoor_ds"]
    assert shell("loftr2flax diff a b --format ", tmp_path) == ["github", "junit"]
    assert shell("loftr2flax convert a.", tmp_path) == [], "left to the shell, which knows files"


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_in_bash_itself(tmp_path: Path) -> None:
    program = tmp_path / "loftr2flax"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m loftr2flax "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(loftr2flax --show-completion)"
        complete -p loftr2flax
        COMP_WORDS=(loftr2flax verify weights a b -m loftr_) COMP_CWORD=6
        _loftr2flax_completion loftr2flax loftr_ -m
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SHELL": str(BASH)}
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "complete -o default -F _loftr2flax_completion loftr2flax",
        "loftr_coarse",
    ], done.stderr

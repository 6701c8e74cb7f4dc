"""Machines that lack something: memory, threads, a home, a terminal, a language, torch."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conversion import PROGRAM, Conversion
from program import Outcome

Run = Callable[..., Outcome]
HERE = {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
"""An environment with nothing in it, but where the package is if it is not installed."""


@pytest.mark.parametrize("megabytes", [24, 64, 112, 160, 240, 272, 288, 304, 352, 800])
def test_tight_memory(npz: Conversion, megabytes: int) -> None:
    """Done, or refused as the machine's fault; never a traceback, never the code of an answer."""
    limit = megabytes << 20
    program = npz.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    _, err = program.communicate()
    whole = npz.judge(program.returncode, err)
    assert program.returncode == (0 if whole else 4), err
    if not whole:
        assert err.splitlines()[0] in ("error: out of memory", "error: the system starts no more threads")
        assert err.count("\n") == 2
    assert whole or megabytes < 800
    assert not whole or megabytes > 240


def test_no_threads(npz: Conversion) -> None:
    refuse = (
        "import threading\nfrom loftr2flax.cli.room import NO_THREAD\n"
        "def start(self): raise RuntimeError(NO_THREAD)\nthreading.Thread.start = start"
    )
    program = npz.start(refuse)
    _, err = program.communicate()
    assert not npz.judge(program.returncode, err)
    assert program.returncode == 4
    assert err.splitlines()[0] == "error: the system starts no more threads"
    assert "ulimit -u" in err.splitlines()[1]


def test_an_empty_environment_and_no_terminal(npz: Conversion) -> None:
    """No HOME, no PATH, no LANG, no controlling terminal, stdin closed, an unreadable working folder's name."""
    program = npz.start(env=HERE, start_new_session=True, preexec_fn=lambda: os.close(0))
    _, err = program.communicate()
    assert program.returncode == 0, err
    assert npz.judge(0, err)


@pytest.mark.parametrize(
    "language", [{"LANG": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_names_that_the_language_does_not_know(npz: Conversion, language: dict[str, str]) -> None:
    (npz.folder / "a.ckpt").rename(npz.folder / "größe ✓.ckpt")
    words = [*PROGRAM, "convert", "größe ✓.ckpt", "-m", "loftr", "-o", "naïve.npz"]
    done = subprocess.run(words, cwd=npz.folder, env=HERE | language, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert done.stderr.startswith((b"dropped", b"wrote "))
    assert len((npz.folder / "naïve.npz").read_bytes()) == len(npz.outputs["out.npz"])
    missing = subprocess.run(
        [*PROGRAM, "inspect", "ö.ckpt"], cwd=npz.folder, env=HERE | language, capture_output=True, check=False
    )
    assert missing.returncode == 3
    assert missing.stderr.startswith(b"error: ")
    assert b"Traceback" not in missing.stderr


def test_a_name_that_is_no_text(npz: Conversion) -> None:
    name = os.fsdecode(b"b\xff.ckpt")
    try:
        (npz.folder / "a.ckpt").rename(npz.folder / name)
    except OSError:
        pytest.skip("the file system takes names of text only")
    done = subprocess.run([*PROGRAM, "inspect", name], cwd=npz.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\udcff.ckpt" in done.stdout


def test_a_working_folder_that_is_gone(npz: Conversion) -> None:
    gone = npz.folder / "gone"
    gone.mkdir()
    leave = f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})"
    words = ["inspect", str(npz.folder / "a.ckpt")]
    done = subprocess.run(
        [sys.executable, "-c", f"{leave}\nfrom loftr2flax.cli import main\nmain({words!r})"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


class TestTorch:
    """`verify parity` is what needs it; the other verbs never ask."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        (tmp_path / "fake").mkdir()
        return tmp_path / "fake"

    @pytest.mark.parametrize(
        "source",
        [
            "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
            "raise ImportError('libtorch_cpu.so: failed to map segment from shared object')",
            "__version__ = '1.4.0'",
        ],
        ids=["missing", "broken", "too old"],
    )
    def test_it_is_told(self, npz: Conversion, path: Path, source: str) -> None:
        (path / "torch.py").write_text(source)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
        program = npz.start(env=environment)
        assert (*program.communicate(), program.returncode) == ("", "", 0), "convert asks for no torch"
        words = [*PROGRAM, "verify", "parity", "a.ckpt", "a.npz", "--sizes", "96x136"]
        done = subprocess.run(words, cwd=npz.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 4, done.stderr
        assert "Traceback" not in done.stderr
        error, hint = done.stderr.splitlines()
        assert error.startswith("error: ")
        assert "torch" in error
        assert hint == "hint: pip install 'loftr2flax[parity]'"

"""The program's outer edge: signals, closed pipes, full disks, bugs, colour, usage."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Outcome, run_program

from loftr2flax import load_loftr_weights
from loftr2flax.cli import app, output
from tools.sample import write_sample

Run = Callable[..., Outcome]
PROGRAM = [sys.executable, "-m", "loftr2flax"]


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A small LoFTR in the official layout."""
    write_sample(tmp_path / "sample.ckpt")
    return tmp_path / "sample.ckpt"


def signalled(number: int) -> str:
    """Code that sends the process a signal when it writes its fifth leaf."""
    return (
        "import os\nfrom loftr2flax.formats.writer import Writer\nwrite, seen = Writer.write, []\n"
        "def writing(self, name, array):\n    write(self, name, array)\n    seen.append(name)\n"
        f"    if len(seen) == 5: os.kill(os.getpid(), {number})\n"
        "Writer.write = writing"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_behind(sample: Path, tmp_path: Path, number: int, code: int) -> None:
    done = run_program("convert", sample, "-m", "loftr", "-o", tmp_path / "a.npz", "-q", prefix=signalled(number))
    assert done.code == code
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == [sample]


class TestPipes:
    def test_a_reader_that_stops_after_a_line(self, sample: Path) -> None:
        words = [*PROGRAM, "inspect", str(sample), "--flat"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().startswith(b"matcher.")
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode in (0, app.EXIT_PIPE)

    def test_data_that_nobody_takes_is_not_done(self, sample: Path) -> None:
        for command in (["inspect", str(sample)], ["mapping", "list"]):
            reader, writer = os.pipe()
            os.close(reader)
            done = subprocess.run(
                [*PROGRAM, *command], stdout=writer, stderr=subprocess.PIPE, check=False,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            os.close(writer)
            assert (done.returncode, done.stderr) == (141, b"")

    def test_talk_that_nobody_hears_stops_no_work(self, sample: Path, tmp_path: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        words = [*PROGRAM, "convert", str(sample), "-m", "loftr", "-o", "a.npz"]
        done = subprocess.run(words, stdout=writer, stderr=writer, cwd=tmp_path, check=False)
        os.close(writer)
        assert done.returncode == 0
        assert len(load_loftr_weights(tmp_path / "a.npz")) == 154

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_full_disk_behind_stdout(self, sample: Path, unbuffered: str) -> None:
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PROGRAM, "inspect", str(sample)], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            )  # fmt: skip
        assert done.returncode == 4
        assert done.stderr.splitlines() == [
            "error: standard output cannot be written: No space left on device",
            "hint: send it to a place with space",
        ]

    def test_streams_that_are_closed_from_the_start(self, sample: Path, tmp_path: Path) -> None:
        command = f"{sys.executable} -m loftr2flax convert {sample} -m loftr -o a.npz --json >&- 2>&-"
        assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 4
        assert (tmp_path / "a.npz").exists()

    @pytest.mark.parametrize("words", ["convert nofile.pt -o x.npz --json", "inspect nofile.pt --json"])
    def test_an_error_that_nobody_hears_keeps_its_code(self, tmp_path: Path, words: str) -> None:
        for redirection in (">/dev/full", "| true"):
            command = f"set -o pipefail; {sys.executable} -m loftr2flax {words} {redirection}"
            done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert "Traceback" not in done.stderr
            assert done.returncode in (3, 4)

    def test_a_file_that_is_refused_does_not_hide_the_others(self, call: Run, sample: Path) -> None:
        done = call("inspect", sample, "nofile.pt", sample)
        assert done.code == 3
        assert done.out.count("looks like") == 2
        assert done.error == "nofile.pt: no such file"
        document = call("inspect", sample, "nofile.pt", "--json").json
        assert [len(document["files"]), document["errors"][0]["exit_code"]] == [1, 3]


class TestBugs:
    def test_a_bug_has_its_own_code_and_its_traceback(
        self, call: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*arguments: object) -> None:
            raise ZeroDivisionError("of ours")

        monkeypatch.setattr("loftr2flax.convert.job.forward_record", broken)
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz")
        assert done.code == 70
        assert done.error == "a bug in loftr2flax: ZeroDivisionError: of ours"
        assert done.hint == "please report it, with the lines above"
        assert "Traceback" in done.err
        assert not (tmp_path / "a.npz").exists()

    def test_no_memory_is_the_machines_fault(
        self, call: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def hungry(*arguments: object) -> None:
            raise MemoryError

        monkeypatch.setattr("loftr2flax.convert.stream.run_move", hungry)  # in the worker's thread
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz")
        assert (done.code, done.error) == (4, "out of memory")
        assert not (tmp_path / "a.npz").exists()

    def test_an_error_while_writing_leaves_the_old_file(
        self, call: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int, data: object) -> int:
            raise OSError(28, "No space left on device")

        (tmp_path / "a.npz").write_text("old")
        monkeypatch.setattr("loftr2flax.formats.atomic.os.write", full)
        done = call("convert", sample, "-m", "loftr", "-o", "a.npz", "--force")
        assert (done.code, done.error) == (4, "a.npz: cannot be written: No space left on device")
        assert (tmp_path / "a.npz").read_text() == "old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "sample.ckpt"]


class TestUsage:
    @pytest.mark.parametrize("words", [[], ["mapping"], ["verify"]])
    def test_nothing_to_do_shows_the_help_and_nothing_more(self, call: Run, words: list[str]) -> None:
        done = call(*words)
        assert done.code == 2
        assert "Usage: loftr2flax" in done.out + done.err
        assert "error:" not in done.err

    @pytest.mark.parametrize(
        ("words", "error", "hint"),
        [
            (["inspect"], "missing argument 'FILE…'", "`loftr2flax inspect --help` lists the options"),
            (["inspct"], "no such command 'inspct'", "`loftr2flax --help` lists the options"),
            (
                ["verify", "weights", "a"],
                "missing argument 'OUT'",
                "`loftr2flax verify weights --help` lists the options",
            ),
            (["convert", "a", "--frce"], "no such option: --frce", "`loftr2flax convert --help` lists the options"),
        ],
    )
    def test_words_that_mean_nothing(self, call: Run, words: list[str], error: str, hint: str) -> None:
        done = call(*words)
        assert done.code == 2
        assert done.error.startswith(error)
        assert done.hint == hint

    def test_version(self, call: Run) -> None:
        from loftr2flax import __version__

        assert call("--version") == Outcome(0, f"loftr2flax {__version__}\n", "")


@pytest.mark.parametrize(("no_color", "painted"), [("", True), ("1", False)])
def test_colour_on_a_terminal_unless_told_not_to(tmp_path: Path, no_color: str, painted: bool) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*PROGRAM, "inspect", "nothing.pt"], stdout=theirs, stderr=theirs, cwd=tmp_path, check=False,
        env={**os.environ, "NO_COLOR": no_color},
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 10_000)
    os.close(ours)
    assert done.returncode == 3
    assert (b"\x1b[" in shown) is painted
    assert b"nothing.pt: no such file" in shown


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    with output.progress_bar("work") as progress:
        assert progress is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with output.progress_bar("work", patience=10) as progress:
        assert progress is not None
        progress(5, 20)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[2J", "a\\x1b[2J"), ("a\nb", "a\nb"), ("größe", "größe"), ("a\u202eb", "a\\u202eb"), ("\udcff", "\\udcff")],
)
def test_printable(text: str, shown: str) -> None:
    assert output.printable(text) == shown


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (46339826, "44.2 MiB"), (1 << 50, "1024.0 TiB")],
)
def test_size_text(nbytes: int, shown: str) -> None:
    assert output.size_text(nbytes) == shown

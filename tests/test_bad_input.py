"""Files that are no checkpoints, or broken ones: refused in two lines, with nothing written and nothing run."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from formats.torch_files import Call, Claim, Stored, write_checkpoint, write_zip
from oracle import torch_state
from program import Outcome

from loftr2flax import load_loftr_weights
from tools.sample import write_sample

Run = Callable[..., Outcome]
AGAIN = "fetch or copy the file again; nothing else makes it readable"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated_zip(path: Path) -> None:
    write_sample(path)
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_safetensors(path: Path) -> None:
    import safetensors.numpy

    data = safetensors.numpy.save({"a.weight": np.ones((3, 5), np.float32)})
    path.write_bytes(data[:-7])


def wrong_crc(path: Path) -> None:
    write_sample(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo("archive/data/6")
    assert record.file_size > 400
    start = record.header_offset + 30 + int.from_bytes(data[record.header_offset + 28 :][:2], "little")
    data[start + 200] ^= 1
    path.write_bytes(data)


def git_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46339826\n")


def html_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>")


def torchscript(path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 5)), path)


def other_zip(path: Path) -> None:
    write_zip(path, {"photos/1.jpg": b"\xff\xd8", "photos/2.jpg": b"\xff\xd8"})


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}, 4))


def text(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n")


def random_bytes(path: Path) -> None:
    path.write_bytes(b"\x07" + np.random.default_rng(3).bytes(4095))


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a checkpoint"))


def no_tensors(path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, path)


def directory(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    pass


def under_a_file(path: Path) -> None:
    path.parent.joinpath("file").write_text("not a folder")
    path.symlink_to(path.parent / "file" / "deeper")


def broken_npz(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones((3, 5)))
    path.write_bytes(buffer.getvalue()[:-30])


FAULTS: dict[Callable[[Path], None], tuple[str, str]] = {
    empty: ("is empty", AGAIN),
    truncated_zip: ("the archive has no end record: truncated, or something was added after it", AGAIN),
    truncated_safetensors: ("leaf 'a.weight' ends at byte 60 of the data, which has 53", AGAIN),
    wrong_crc: ("", AGAIN),
    git_lfs_pointer: ("a git-lfs pointer, not the file that it stands for", "git lfs pull"),
    html_page: ("a web page saved under a checkpoint's name", "download the file itself: the raw or resolve link"),
    torchscript: ("TorchScript", "state_dict"),
    other_zip: ("a zip archive of something else: 'photos/1.jpg'", "unpack it first"),
    plain_pickle: ("a plain pickle, which only running it could read", "save its state dict with torch.save"),
    text: ("not a checkpoint of a known format: it begins with b'epoch,lo'", "safetensors"),
    random_bytes: ("not a checkpoint of a known format: it begins with b'\\x07", "safetensors"),
    gzipped: ("compressed with gzip", "gunzip it first"),
    no_tensors: ("no state dict was found: the file holds a dict without any", "model.state_dict()"),
    directory: ("is a directory", "name a file"),
    missing: ("no such file", "check the path"),
    under_a_file: ("no such file", "check the path"),
    broken_npz: ("the archive has no end record: truncated, or something was added after it", AGAIN),
}
"""By fault, what the error and the hint must say."""


def made(fault: Callable[[Path], None], folder: Path) -> Path:
    path = folder / f"{fault.__name__}.ckpt"
    fault(path)
    return path


def assert_refused(done: Outcome, path: Path, error: str, hint: str) -> None:
    assert done.code in (3, 4), done
    assert done.err.startswith("error: "), "nothing is said before it"
    assert "Traceback" not in done.err
    assert str(path) in done.error
    assert error in done.error
    assert hint in done.hint
    assert len(done.hint) > 5
    assert done.out == ""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_refused_by_inspect_and_convert(call: Run, tmp_path: Path, fault: Callable[[Path], None]) -> None:
    path = made(fault, tmp_path)
    before = sorted(tmp_path.iterdir())
    done = call("inspect", path)
    if fault is wrong_crc:  # headers alone do not show it
        assert done.code == 0
        done = call("convert", path, "-o", "out.npz", "-m", "loftr", "-q")
        assert "archive/data/6" in done.error
    assert_refused(done, path, *FAULTS[fault])
    for words in ([], ["-m", "loftr"], ["-m", "loftr", "--force", "--format", "msgpack"]):
        done = call("convert", path, "-o", "out.npz", *words, "-q")
        assert_refused(done, path, *FAULTS[fault])
    assert sorted(tmp_path.iterdir()) == before


def test_the_real_program_says_the_same(run: Run, tmp_path: Path) -> None:
    path = made(html_page, tmp_path)
    done = run("convert", path, "-o", "out.npz")
    assert done.err.splitlines() == [
        f"error: {path}: a web page saved under a checkpoint's name",
        "hint: download the file itself: the raw or resolve link",
    ]
    assert (done.code, done.out) == (3, "")


class TestHostilePickle:
    """A pickle that calls os.system: nothing of it runs, and what it names is listed."""

    def test_beside_tensors_it_is_listed_and_the_tensors_convert(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "sample.ckpt")
        torch.save(
            {"state_dict": torch_state(tmp_path / "sample.ckpt"), "hook": Call(os.system, "touch pwned")},
            tmp_path / "hostile.ckpt",
        )
        with pytest.raises(pickle.UnpicklingError):  # torch gives up on the whole file
            torch.load(tmp_path / "hostile.ckpt", weights_only=True)
        done = call("inspect", "hostile.ckpt")
        assert done.code == 0
        (line,) = (line for line in done.out.splitlines() if line.startswith("not run"))
        assert line.split() == ["not", "run", f"{os.system.__module__}.system"]
        assert call("convert", "hostile.ckpt", "-m", "loftr", "-o", "a.npz").code == 0
        assert call("verify", "weights", "sample.ckpt", "a.npz").code == 0
        assert len(load_loftr_weights(tmp_path / "a.npz")) == 154
        assert not (tmp_path / "pwned").exists()

    def test_with_nothing_else_it_is_refused(self, call: Run, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "hostile.ckpt", {"weights": Call(os.system, "touch pwned")})
        for words in (["inspect", "hostile.ckpt"], ["convert", "hostile.ckpt", "-o", "a.npz"]):
            done = call(*words)
            assert_refused(done, Path("hostile.ckpt"), *FAULTS[no_tensors])
        assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.ckpt"]

    def test_the_test_can_fail(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hostile = write_checkpoint(tmp_path / "hostile.ckpt", {"weights": Call(os.system, "touch pwned")})
        monkeypatch.chdir(tmp_path)
        torch.load(hostile, weights_only=False)
        assert (tmp_path / "pwned").exists()


def test_names_from_a_file_cannot_forge_a_line_or_move_the_cursor(call: Run, tmp_path: Path) -> None:
    forged = "a\nhint: rm -rf ~\nerror: \x1b[2Jok.weight"
    write_checkpoint(tmp_path / "forged.ckpt", {forged: Claim(Stored(), (2, 3), (3, 1))})
    own = tmp_path / "own.yaml"
    own.write_text("mapping: own/1\ndense:\n  fc: fc\n")
    for words in (
        ["inspect", "forged.ckpt"],
        ["inspect", "forged.ckpt", "--flat"],
        ["convert", "forged.ckpt", "-o", "a.npz"],
        ["convert", "forged.ckpt", "-m", own, "-o", "a.npz"],
        ["mapping", "explain", forged],
        ["convert", forged, "-o", "a.npz"],
    ):
        done = call(*words)
        assert "\x1b" not in done.out + done.err
        lines = [line for line in (done.out + done.err).splitlines() if line.startswith(("error:", "hint:"))]
        assert not any(line.startswith(("hint: rm", "error: ok", "error: \\x1b")) for line in lines)
        assert len(lines) == (0 if words[0] == "inspect" else 2), lines


def test_names_that_no_terminal_of_ascii_knows(run: Run, tmp_path: Path) -> None:
    torch.save({"größe.weight": torch.ones(2, 3), "größe.bias": torch.ones(2)}, tmp_path / "n.pt")
    (tmp_path / "own.yaml").write_text("mapping: own/1\ndense:\n  größe: größe\n", "utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = run("inspect", "n.pt", **plain)
    assert done.code == 0
    assert "gr\\xf6\\xdfe.weight" in done.out
    assert run("convert", "n.pt", "-m", "own.yaml", "-o", "a.npz", **plain).code == 0
    assert list(load_loftr_weights(tmp_path / "a.npz")) == ["größe/kernel", "größe/bias"]


def test_a_file_that_we_may_not_read(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that refuses is feigned: where the tests run as root, no file is closed to them."""
    write_sample(tmp_path / "closed.ckpt")
    really_open = os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith("closed.ckpt"):
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    for words in (["inspect", "closed.ckpt"], ["convert", "closed.ckpt", "-o", "a.npz"]):
        done = call(*words)
        assert_refused(done, Path("closed.ckpt"), "cannot be opened: Permission denied", "check its permissions")
        assert done.code == 4


def test_a_folder_that_nobody_may_write_to(call: Run, tmp_path: Path) -> None:
    write_sample(tmp_path / "sample.ckpt")
    done = call("convert", "sample.ckpt", "-m", "loftr", "-q", "-o", "/proc/a.npz")
    assert done.code == 4
    assert done.error.startswith("/proc/a.npz: cannot be created: ")
    assert len(done.hint) > 5


def test_a_name_of_megabytes_does_not_fill_the_terminal(call: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "long.ckpt", {"k" * 3_000_000: Claim(Stored(), (9, 9), (9, 1))})
    done = call("inspect", "long.ckpt")
    assert done.code == 3
    assert len(done.err) < 3000
    assert done.error.startswith("long.ckpt: 'kkk")
    assert done.error.endswith("the tensor would end at byte 324 of storage '0', which has 24")

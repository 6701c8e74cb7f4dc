"""What every writer has in common."""

import hashlib
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sample_leaves import PROVENANCE, every_type, infos_of, leaf, same_bits, write

from loftr2flax.checkpoint import Scratch
from loftr2flax.errors import EnvironmentFault, OutputExists, UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import ENDINGS, FORMATS, format_of, open_writer

LEAVES = {"b/kernel": leaf("float32", (2, 5)), "a/bias": leaf("int8", (3,)), "b/scale": leaf("bfloat16", (4, 1))}
each_format = pytest.mark.parametrize("format", FORMATS)


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@each_format
def test_the_same_leaves_give_the_same_bytes_in_any_folder(tmp_path, format):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    leaves = every_type(without=("complex128",))
    for folder, provenance in (("one", PROVENANCE), ("two", dict(reversed(PROVENANCE.items())))):
        write(tmp_path / folder / "out", format, leaves, provenance)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


GOLDEN = {
    "npz": "e504d92c2899",
    "msgpack": "26367df23181",
    "safetensors": "31970042afa7",
    "torch": "f73e68c6a5af",
}
"""The first digits of the SHA-256 of what each writer makes of `_GOLDEN_LEAVES`, so that a change cannot go unseen."""
_GOLDEN_LEAVES = {"a/b": np.arange(6, dtype="f4").reshape(2, 3), "a/c": np.array(7, "i8"), "d": np.ones((0, 3), "f2")}


@each_format
def test_the_bytes_are_those_of_the_last_release(tmp_path, format):
    path = write(tmp_path / "out", format, _GOLDEN_LEAVES, {"mapping": "x"})
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] == GOLDEN[format]


@pytest.mark.parametrize(
    "format", [format for format in FORMATS if format != "torch"]
)  # no state dict: nothing to open
def test_no_leaves_at_all(tmp_path, format):
    path = write(tmp_path / "out", format, {})
    with open_checkpoint(path) as checkpoint:
        assert dict(checkpoint.infos) == {}


@each_format
def test_provenance_is_never_a_leaf(tmp_path, format):
    with open_checkpoint(write(tmp_path / "out", format, LEAVES)) as checkpoint:
        assert set(checkpoint.infos) == set(LEAVES)
        assert checkpoint.contents.provenance == PROVENANCE


@each_format
def test_what_is_there_is_not_replaced_without_force(tmp_path, format):
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(OutputExists, match="out: exists already"):
        write(tmp_path / "out", format, LEAVES)
    assert _files(tmp_path) == {"out": b"old"}
    write(tmp_path / "out", format, LEAVES, force=True)


@each_format
def test_a_write_that_fails_at_any_call_leaves_the_old_file(tmp_path, monkeypatch, format):
    leaves = {**LEAVES, "c": leaf("float32", (300, 100)), "d": leaf("float32", (200, 100))}
    real, outcomes = os.write, []
    for k in range(20):
        (tmp_path / "out").write_bytes(b"old")
        calls = iter(range(1000))

        def failing(descriptor, data, k=k, calls=calls):
            if next(calls) == k:
                raise OSError(28, "No space left on device")
            return real(descriptor, data[:50_000])  # short writes are writes too

        monkeypatch.setattr(os, "write", failing)
        try:
            write(tmp_path / "out", format, leaves, force=True)
        except EnvironmentFault as fault:
            outcomes.append(fault.message.rpartition(": cannot be ")[2])
        else:
            outcomes.append("")
        monkeypatch.setattr(os, "write", real)
        assert ((tmp_path / "out").read_bytes() == b"old") == (outcomes[-1] != "")
        assert set(os.listdir(tmp_path)) <= {"out", "out.provenance.json"}
    assert outcomes[0] == "written: No space left on device"
    assert set(outcomes) == {outcomes[0], ""}


@each_format
@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_exception_between_leaves_leaves_nothing(tmp_path, format, kind):
    def fail():
        with open_writer(tmp_path / "out", format, infos_of(LEAVES), PROVENANCE) as writer:
            writer.write(writer.order[0], LEAVES[writer.order[0]])
            raise kind

    with pytest.raises(kind):
        fail()
    assert os.listdir(tmp_path) == []


@each_format
def test_provenance_that_is_known_at_the_end_alone(tmp_path, format):
    settled = []

    def told(*, final=True):
        assert settled or not final, "it was asked for before the last leaf"
        return {**PROVENANCE, "source_sha256": "00ff" if final else "0000"}

    with open_writer(tmp_path / "out", format, infos_of(LEAVES), told) as writer:
        for name in writer.order:
            writer.write(name, LEAVES[name])
        settled.append(True)
    write(tmp_path / "known", format, LEAVES, PROVENANCE)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "known").read_bytes()


def test_a_header_that_grew_is_not_written_over_leaves(tmp_path):
    with pytest.raises(RuntimeError, match="has grown"):
        write(tmp_path / "out", "safetensors", LEAVES, lambda *, final=True: {"a": "long, " * 9 * final})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [(1 << 20) - 200, 1 << 20, (1 << 20) + 1, (5 << 20) + 3])
def test_crcs_of_large_records(tmp_path, size):
    """They are taken on the way and written afterwards, in the local header too, which zipfile does not look at."""
    leaves = {"first": np.ones(3, "f4"), "large": np.arange(size, dtype="u1"), "last": np.ones(5, "f4")}
    write(tmp_path / "out.npz", "npz", leaves, PROVENANCE)
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert archive.testzip() is None  # each record read, and held against the directory's CRC
        entry = archive.getinfo("large.npy")
        header = (tmp_path / "out.npz").read_bytes()[entry.header_offset :][:30]
    assert int.from_bytes(header[14:18], "little") == entry.CRC
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["large"], leaves["large"])


@each_format
def test_a_caller_that_errs_is_told(tmp_path, format):
    def run(act):
        with open_writer(tmp_path / "out", format, infos_of(LEAVES), PROVENANCE) as writer:
            act(writer, writer.order[0], LEAVES[writer.order[0]])

    def twice(writer, name, array):
        for due in (*writer.order, name):
            writer.write(due, LEAVES[due])

    mistakes = {
        "was written out of turn": lambda writer, name, array: writer.write("a/other", array),
        "is due": lambda writer, name, array: writer.write(writer.order[1], LEAVES[writer.order[1]]),
        "None is due": twice,
        "was announced and never written": lambda writer, name, array: writer.write(name, array),
        "was announced, float32": lambda writer, name, array: writer.write(name, np.zeros((5, 2), "f4")),
        "was announced, float64": lambda writer, name, array: writer.write(name, np.zeros(array.shape)),
        "in another order came": lambda writer, name, array: writer.write(
            name, np.zeros((*array.shape[::-1], 2), array.dtype)[..., 0].T
        ),
    }
    for message, act in mistakes.items():
        with pytest.raises(RuntimeError, match=message):
            run(act)
        assert os.listdir(tmp_path) == []


@each_format
def test_leaves_are_read_from_several_threads(tmp_path, format):
    leaves = {f"a.k{number}": leaf("float32", (50, 70 + number), number) for number in range(40)}

    def read(name):
        scratch = Scratch()
        return all(same_bits(checkpoint.read(name, scratch), leaves[name]) for _ in range(3))

    path = write(tmp_path / "out", format, leaves)
    with open_checkpoint(path) as checkpoint, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, leaves))


@each_format
def test_an_input_can_be_its_own_output(tmp_path, format):
    path = write(tmp_path / "out", format, LEAVES)
    with (
        open_checkpoint(path) as checkpoint,
        open_writer(path, format, checkpoint.infos, {"round": 2}, force=True) as writer,
    ):
        for name in writer.order:
            writer.write(name, checkpoint.read(name))
    with open_checkpoint(path) as checkpoint:
        assert all(same_bits(checkpoint.read(name), array) for name, array in LEAVES.items())
        assert checkpoint.contents.provenance == {"round": 2}


@each_format
def test_after_closing_nothing_is_read(tmp_path, format):
    checkpoint = open_checkpoint(write(tmp_path / "out", format, LEAVES))
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ValueError, match="read after close"):
        checkpoint.read("a/bias")


def test_big_endian_arrays_are_a_mistake_of_the_caller(tmp_path):
    with (
        pytest.raises(RuntimeError, match="in another order came"),
        open_writer(tmp_path / "out", "npz", infos_of({"a": np.zeros((2, 3), "f4")}), {}) as writer,
    ):
        writer.write("a", np.zeros((2, 3), ">f4"))


def test_endings_mean_formats():
    assert {ending: format_of(f"dir/out{ending}") for ending in ENDINGS} == ENDINGS
    assert set(ENDINGS.values()) == set(FORMATS)
    assert format_of("OUT.NPZ") == "npz"
    for path in ("out", "out.h5", "out.npz.gz"):
        with pytest.raises(UsageError, match="names no format") as refusal:
            format_of(path)
        assert all(ending in refusal.value.hint for ending in ENDINGS)


def test_an_unknown_format(tmp_path):
    with (
        pytest.raises(UsageError, match="format 'h5' is not known") as refusal,
        open_writer(tmp_path / "out", "h5", {}, {}),
    ):
        pass
    assert refusal.value.hint == "use one of npz, msgpack, safetensors, torch"


_HEAVY = """
heavy = {"torch", "jax", "flax", "msgpack", "ml_dtypes", "safetensors", "zipfile"}
print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
"""


@pytest.mark.parametrize(
    ("more", "loaded"), [("", "[]"), ("import msgpack", "['msgpack']"), ("import zipfile", "['zipfile']")]
)
def test_heavy_libraries_stay_out(more, loaded):
    """In a fresh interpreter; the second case shows that the first one can fail."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, loftr2flax.formats, loftr2flax.formats.writer\n{more}{_HEAVY}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == loaded


def test_reading_and_writing_plain_leaves_loads_nothing_heavy(tmp_path):
    script = """
import sys, numpy as np
from loftr2flax.checkpoint import LeafInfo
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import FORMATS, open_writer
for format in FORMATS:
    with open_writer(sys.argv[1] + format, format, {"a": LeafInfo((2, 3), "float32")}, {}) as writer:
        writer.write("a", np.zeros((2, 3), "f4"))
    with open_checkpoint(sys.argv[1] + format) as checkpoint:
        checkpoint.read("a")
"""
    done = subprocess.run(
        [sys.executable, "-c", script + _HEAVY, str(tmp_path / "x.")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"

""".npz read and written, judged by numpy."""

import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from sample_leaves import PROVENANCE, assert_holds, every_type, leaf, same_bits, trees, write

from loftr2flax import dtypes
from loftr2flax.checkpoint import Scratch
from loftr2flax.errors import CorruptFile, InputError, LimitExceeded, UnsupportedTensor, UnwritableLeaf
from loftr2flax.formats import Limits, open_checkpoint
from loftr2flax.formats.npz_file import NpzFile

_FOREIGN = tuple(name for name in dtypes.NAMES if not dtypes.is_native(name))


def _numpy_reads(path, leaves):
    with np.load(path, allow_pickle=False) as file:
        assert file.files == list(leaves)
        for name, array in leaves.items():
            found = file[name]
            if found.dtype.names:  # our convention: one field, named as the type
                (kind,) = found.dtype.names
                found = found[kind].view(getattr(ml_dtypes, kind))
            assert same_bits(found, array), name


def test_our_file_is_what_numpy_reads(tmp_path):
    leaves = every_type()
    _numpy_reads(write(tmp_path / "out.npz", "npz", leaves), leaves)


def test_our_file_is_what_we_read(tmp_path):
    leaves = every_type()
    with open_checkpoint(write(tmp_path / "out.npz", "npz", leaves)) as checkpoint:
        assert_holds(checkpoint, leaves)
        assert checkpoint.contents.provenance == PROVENANCE
        assert (checkpoint.format, checkpoint.separator) == ("npz", "/")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpys_file_is_what_we_read(tmp_path, save):
    leaves = every_type(without=_FOREIGN)
    save(tmp_path / "in.npz", **leaves)
    with open_checkpoint(tmp_path / "in.npz") as checkpoint:
        assert_holds(checkpoint, leaves)
        scratch = Scratch()
        assert all(same_bits(checkpoint.read(name, scratch), array) for name, array in leaves.items())


def test_fortran_order_and_big_endian_are_made_plain(tmp_path):
    plain = np.arange(10, dtype="f4").reshape(2, 5)
    np.savez(
        tmp_path / "in.npz", f=np.asfortranarray(plain), b=plain.astype(">f4"), both=plain.astype(">f4", order="F")
    )
    with NpzFile(tmp_path / "in.npz") as checkpoint:
        assert_holds(checkpoint, {"f": plain, "b": plain, "both": plain})
        assert all(checkpoint.read(name).flags.c_contiguous for name in checkpoint.infos)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaves=trees())
def test_any_tree_goes_both_ways(tmp_path, leaves):
    path = write(tmp_path / "out.npz", "npz", leaves, force=True)
    _numpy_reads(path, leaves)
    with NpzFile(path) as checkpoint:
        assert_holds(checkpoint, leaves)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "self", "a.npy", "", " ", "a//b", "é/日本", "x" * 60_000])
def test_names_that_savez_stumbles_over(tmp_path, name):
    leaves = {name: leaf("float32", (2, 3)), "other": leaf("int8", (4,))}
    path = write(tmp_path / "out.npz", "npz", leaves)
    _numpy_reads(path, leaves)
    with NpzFile(path) as checkpoint:
        assert_holds(checkpoint, leaves)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.npy", "numpy.load would return 'a' for this name"),
        ("../a", "the name points outside an archive"),
        ("/a", "the name points outside an archive"),
        ("a\0b", "a name in an archive cannot hold a zero byte"),
        ("x" * 65_535, "the name is too long for an archive"),
        ("\ud800", "the name is not valid Unicode"),
    ],
)
def test_names_that_would_come_back_as_others_are_refused(tmp_path, name, reason):
    with pytest.raises(UnwritableLeaf, match=reason):
        write(tmp_path / "out.npz", "npz", {"a": leaf("int8", (2,)), name: leaf("int8", (3,))})
    assert list(tmp_path.iterdir()) == []


def test_elements_begin_at_multiples_of_64_bytes(tmp_path):
    leaves = every_type()
    path = write(tmp_path / "out.npz", "npz", leaves)
    with NpzFile(path) as checkpoint:
        for name, header in checkpoint._headers.items():
            assert (checkpoint._archive.entries[f"{name}.npy"].offset + header.data_at) % 64 == 0


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_provenance_of_any_size(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, size // 2, np.uint8).tobytes().hex()
    path = write(tmp_path / "out.npz", "npz", {"a": leaf("int8", (2,))}, {"text": noise})
    with NpzFile(path) as checkpoint:
        assert checkpoint.contents.provenance == {"text": noise}
    assert (tmp_path / "out.npz.provenance.json").exists() == (size == 200_000)
    with np.load(path) as file:
        assert file.files == ["a"]


def _record(descr="'<f4'", fortran="False", shape="(2, 3)", data=bytes(24), version=1, text=None):
    text = (text or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n").encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


def _npz(path, **records):
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(f"{name}.npy", record)
    return path


FAULTS = {
    "no_magic": (b"hello, world", "leaf 'a' is not an .npy record of version 1, 2 or 3"),
    "empty_record": (b"", "leaf 'a' is not an .npy record"),
    "version_9": (_record(version=9), "leaf 'a' is not an .npy record of version 1, 2 or 3"),
    "header_of_gigabytes": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", "leaf 'a' has a header of 2147483659 bytes"),
    "header_past_the_end": (_record(data=b"")[:-5], "leaf 'a' .*header"),
    "header_is_code": (_record(text="__import__('os').system('true')\n"), "leaf 'a' has a header that is not a dict"),
    "header_nested": (_record(text="(" * 5000 + "\n"), "leaf 'a' has a header that is not a dict"),
    "header_with_more": (_record(text="{'descr': '<f4', 'x': 1}\n"), "leaf 'a' has a header without exactly descr"),
    "negative_size": (_record(shape="(-2, 3)"), r"leaf 'a' has a header with shape \(-2, 3\)"),
    "size_true": (_record(shape="(True, 6)"), r"leaf 'a' has a header with shape \(True, 6\)"),
    "shape_too_large": (_record(shape="(2, 4)"), r"float32 of shape \(2, 4\) needs 32 bytes, its record has 24"),
    "shape_too_small": (_record(shape="(2, 2)"), r"float32 of shape \(2, 2\) needs 16 bytes, its record has 24"),
    "shape_overflows": (
        _record(shape="(0, 1 << 62)".replace("1 << 62", str(1 << 62)), data=b""),
        "a header with shape",
    ),
    "fortran_is_a_number": (_record(fortran="1"), "leaf 'a' has a header with shape .* and fortran_order 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_record_is_refused(tmp_path, fault):
    record, message = FAULTS[fault]
    path = _npz(tmp_path / "bad.npz", a=record)
    with pytest.raises(CorruptFile, match=message) as refusal:
        NpzFile(path)
    assert refusal.value.message.startswith(f"{path}: ")
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    ("descr", "reason"),
    [
        ("'|O'", "an object array: its elements are pickled"),
        ("'|V2'", "nameless elements of 2 bytes: numpy loses the name of bfloat16"),
        ("'<U3'", "elements of type '<U3'"),
        ("'<f16'", "elements of type '<f16'"),
        ("'<M8[ns]'", "elements of type"),
        ("[('x', '<f4'), ('y', '<f4')]", "structured elements"),
        ("[('bfloat16', '<u4')]", "structured elements"),
    ],
)
def test_elements_that_are_no_numbers_are_listed_and_refused_when_read(tmp_path, descr, reason):
    path = _npz(tmp_path / "in.npz", a=_record(descr=descr), b=_record())
    with NpzFile(path) as checkpoint:
        assert checkpoint.read("b").shape == (2, 3)
        with pytest.raises(UnsupportedTensor, match=f"leaf 'a': {reason}"):
            checkpoint.read("a")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_three_versions_of_a_header(tmp_path, version):
    data = leaf("float32", (2, 3))
    path = _npz(tmp_path / "in.npz", a=_record(data=data.tobytes(), version=version))
    with NpzFile(path) as checkpoint:
        assert_holds(checkpoint, {"a": data})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_bit_is_noticed(tmp_path, save):
    save(tmp_path / "in.npz", a=np.arange(6, dtype="<i2").reshape(2, 3))
    whole = (tmp_path / "in.npz").read_bytes()
    path = tmp_path / "bad.npz"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            with open_checkpoint(path) as checkpoint:
                for name in checkpoint.infos:
                    assert checkpoint.read(name).tolist() == [[0, 1, 2], [3, 4, 5]], f"byte {at}"
        except InputError:
            pass


def test_a_wrong_crc_names_the_record(tmp_path):
    path = write(tmp_path / "out.npz", "npz", {"a/b": np.arange(6, dtype="i2").reshape(2, 3)})
    raw = path.read_bytes()
    at = raw.index(np.arange(6, dtype="i2").tobytes())
    path.write_bytes(raw[:at] + b"\x07" + raw[at + 1 :])
    with NpzFile(path) as checkpoint, pytest.raises(CorruptFile, match=r"record 'a/b.npy' fails its check: CRC"):
        checkpoint.read("a/b")


def test_records_that_are_not_arrays_are_listed(tmp_path):
    path = _npz(tmp_path / "in.npz", a=_record())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "hello")
    with NpzFile(path) as checkpoint:
        assert list(checkpoint.infos) == ["a"]
        assert [unread.path for unread in checkpoint.contents.unread] == ["notes.txt"]


def test_too_many_records(tmp_path):
    path = write(tmp_path / "out.npz", "npz", {"a": leaf("int8", (2,)), "b": leaf("int8", (3,))})
    with pytest.raises(LimitExceeded, match="2 tensors, the limit is 1"):
        open_checkpoint(path, limits=Limits(tensors=1))


def test_opening_reads_headers_only(tmp_path):
    """A broken element is not noticed until its leaf is read: proof that opening did not read it."""
    big = np.zeros((3, 100_000), np.float32)
    path = write(tmp_path / "out.npz", "npz", {"big": big})
    raw = bytearray(path.read_bytes())
    raw[500_000] ^= 1
    path.write_bytes(raw)
    with NpzFile(path) as checkpoint:
        assert checkpoint.info("big").shape == (3, 100_000)
        with pytest.raises(CorruptFile):
            checkpoint.read("big")


def test_the_comment_is_packed_with_plain_zlib():
    from loftr2flax.formats.provenance import from_comment, to_comment

    packed = to_comment({"text": "ab" * 40_000})
    assert packed.startswith(b"loftr2flax:zlib:")
    assert from_comment(packed) == {"text": "ab" * 40_000}
    assert from_comment(b"loftr2flax:zlib:!!") is None
    assert from_comment(b"any other comment") is None


def test_an_archive_beyond_4_gib_needs_zip64_only_there():
    """The writer's numbers alone: no such file is written."""
    from loftr2flax.formats.zip_writer import ZipWriter

    class Sink:
        position = (1 << 32) + 64
        data = b""

        def write(self, data):
            self.data += bytes(data)
            self.position += len(data)

    sink = Sink()
    writer = ZipWriter(sink)
    writer.record("a.npy", b"x")
    writer.end()
    assert sink.data.count(b"PK\x06\x06") == 1
    assert sink.data.count(b"PK\x06\x07") == 1
    assert int.from_bytes(sink.data.partition(b"PK\x01\x02")[2][51:59], "little") == (1 << 32) + 64

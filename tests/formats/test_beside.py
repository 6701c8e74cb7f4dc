"""The file beside an output that tells of its making: what is there and is not ours stays."""

import json
import os

import pytest
from sample_leaves import PROVENANCE, infos_of, leaf, write

from loftr2flax.errors import EnvironmentFault, OutputExists, UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import open_writer

LEAVES = {"a": leaf("float32", (2, 5))}
LONG = {"text": os.urandom(200_000).hex()}
OURS = {"loftr2flax": {}, "bytes": 1, "head_crc32": 2}
FOREIGN = {
    "text": b"keep me\n",
    "empty": b"",
    "json": b'{"mine": 1}',
    "list": b"[1]",
    "our_key_alone": b'{"loftr2flax": {"mapping": "x"}}',
    "our_key_as_text": json.dumps({**OURS, "loftr2flax": "1.0"}).encode(),
    "one_field_more": json.dumps({**OURS, "mine": 1}).encode(),
    "binary": bytes(range(256)),
}


def _refused(path, format, provenance):
    with pytest.raises(OutputExists) as refusal:
        write(path, format, LEAVES, provenance)
    assert refusal.value.message == f"{path}.provenance.json: exists already, and is no record of an output"
    assert refusal.value.hint == "add --force to replace it, or name another output"


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize(("format", "provenance"), [("msgpack", PROVENANCE), ("npz", LONG)])
def test_a_foreign_file_stays_unless_forced(tmp_path, format, provenance, kind):
    path, beside = tmp_path / "out", tmp_path / "out.provenance.json"
    beside.write_bytes(FOREIGN[kind])
    _refused(path, format, provenance)
    assert os.listdir(tmp_path) == [beside.name]
    assert beside.read_bytes() == FOREIGN[kind]
    write(path, format, LEAVES, provenance, force=True)
    assert json.loads(beside.read_bytes())["loftr2flax"] == provenance


def test_it_is_refused_before_the_first_leaf(tmp_path):
    (tmp_path / "out.provenance.json").write_text("mine")
    with (
        pytest.raises(OutputExists, match="is no record of an output"),
        open_writer(tmp_path / "out", "msgpack", infos_of(LEAVES), PROVENANCE),
    ):
        pytest.fail("the writer was handed out")


def test_one_too_large_to_be_ours(tmp_path):
    with (tmp_path / "out.provenance.json").open("wb") as file:
        file.truncate(1 << 30)
    _refused(tmp_path / "out", "msgpack", PROVENANCE)


@pytest.mark.parametrize(("format", "provenance"), [("msgpack", PROVENANCE), ("npz", LONG)])
def test_a_record_of_ours_is_replaced(tmp_path, format, provenance):
    path = write(tmp_path / "out", format, {"b": leaf("int8", (3,))}, {**LONG, "of": "a file that is gone"})
    path.unlink()
    write(path, format, LEAVES, provenance)
    if format == "msgpack":
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.contents.provenance == provenance
    assert json.loads((tmp_path / "out.provenance.json").read_bytes())["loftr2flax"] == provenance


def test_a_file_that_comes_while_the_leaves_are_written(tmp_path):
    beside = tmp_path / "out.provenance.json"

    def interrupted():
        with open_writer(tmp_path / "out", "msgpack", infos_of(LEAVES), PROVENANCE) as writer:
            beside.write_text("mine")
            writer.write("a", LEAVES["a"])

    with pytest.raises(OutputExists, match="is no record of an output"):
        interrupted()
    assert (os.listdir(tmp_path), beside.read_text()) == ([beside.name], "mine")


@pytest.mark.parametrize("format", ["npz", "safetensors", "torch"])
def test_a_format_with_room_inside_does_not_mind(tmp_path, format):
    (tmp_path / "out.provenance.json").write_text("mine")
    write(tmp_path / "out", format, LEAVES)
    assert (tmp_path / "out.provenance.json").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_beside(tmp_path, force):
    (tmp_path / "out.provenance.json").mkdir()
    with pytest.raises(UsageError, match=r"out\.provenance\.json: cannot be replaced: it is a directory"):
        write(tmp_path / "out", "msgpack", LEAVES, force=force)


def test_one_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "out.provenance.json").write_text("mine")
    real = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith(".json"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(EnvironmentFault, match=r"out\.provenance\.json: cannot be opened: Permission denied"):
        write(tmp_path / "out", "msgpack", LEAVES)

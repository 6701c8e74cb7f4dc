"""Which format a file has, told from its content: endings lie, and ``.bin`` says nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.errors import MissingInput, UnsupportedFile, UsageError
from loftr2flax.formats.source_file import FETCH_AGAIN, SourceFile
from loftr2flax.limits import DEFAULT, Limits

_HEAD = 1024
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_TAR_MAGIC_AT = 257
_ZIP_NAME_AT = 30


def open_checkpoint(
    path: str | os.PathLike[str], state_dict: str | None = None, limits: Limits = DEFAULT
) -> Checkpoint:
    """The checkpoint at ``path``, whatever its format; nothing is read but headers.

        with open_checkpoint("outdoor_ds.ckpt") as checkpoint:
            print(checkpoint.format, len(checkpoint.infos))

    Args:
      path: a PyTorch file, safetensors or an index of its shards, ``.npz``, or Flax msgpack.
      state_dict: in a PyTorch file, the container to take ("state_dict"; "" for the file itself); None to choose.
      limits: what the file may ask of this machine.

    Raises:
      MissingInput: nothing is there, or a folder is.
      EnvironmentFault: the system does not let us read it.
      UnsupportedFile, CorruptFile, LimitExceeded: it is refused; the message says why.
      UsageError: ``state_dict`` was given for a format that has no containers.
    """
    target = Path(path)
    if target.is_dir():
        raise _folder(target)
    kind = sniff(target, limits)
    if kind not in _WITH_CONTAINERS and state_dict is not None:
        raise UsageError(f"{target}: a {kind} file has no state dicts to choose from", "leave out --state-dict")
    if kind in _WITH_CONTAINERS:
        checkpoint = _WITH_CONTAINERS[kind](target, state_dict, limits)
    else:
        checkpoint = _PLAIN[kind](target, limits)
    try:
        limits.check_leaves(checkpoint)
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def has_containers(path: str | os.PathLike[str], limits: Limits = DEFAULT) -> bool:
    """Whether the file at ``path`` is of a format that can hold several dicts of tensors: a PyTorch file.

    Raises:
      MissingInput, EnvironmentFault, UnsupportedFile: as for `open_checkpoint`.
    """
    if Path(path).is_dir():
        raise _folder(Path(path))
    return sniff(Path(path), limits) in _WITH_CONTAINERS


def sniff(path: Path, limits: Limits = DEFAULT) -> str:
    """The format of the file at ``path``: "torch", "torch-legacy", "safetensors", "index", "npz" or "msgpack".

    Raises:
      UnsupportedFile: it is something else; the message names what, as far as it can be told.
    """
    source = SourceFile(path)
    try:
        head = source.read(min(_HEAD, source.size), 0, "the head")
        size = source.size
    finally:
        source.close()
    if not size:
        raise UnsupportedFile(f"{path}: is empty", FETCH_AGAIN)
    if _begins_safetensors(head):  # before all others: its length can begin with any format's magic number
        return "safetensors"
    refuse_known(path, head)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06")):
        return _sniff_zip(path, head, limits)
    if head[:1] == b"\x80" and size > 1 and head[1] <= 5:
        return _sniff_pickle(path, head)
    if head.lstrip()[:1] == b"{":
        return "index"
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):  # a map; the scanner refuses what is not msgpack
        return "msgpack"
    if size >= 10 and head[8:9] == b"{":  # a damaged one: its reader says what is wrong
        return "safetensors"
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":  # last: any format can hold this word at this place
        raise UnsupportedFile(
            f"{path}: a tar archive, as PyTorch before 0.1.10 wrote them",
            "load it in PyTorch, and save its state dict again with torch.save",
        )
    raise UnsupportedFile(
        f"{path}: not a checkpoint of a known format: it begins with {head[:8]!r}",
        "PyTorch files, safetensors, .npz and Flax msgpack are read",
    )


def _begins_safetensors(head: bytes) -> bool:
    """Whether a length of less than 4 GiB (100 MB are allowed) and the first bytes of a JSON object come first.

    No other format begins so: zip has its method at byte 8, a legacy torch file its magic number, and msgpack four
    bytes of zero before it only in a key of zero bytes. A file that is cut in its header is told too.
    """
    return head[4:9] == b"\0\0\0\0{" and head[9:10] in (b'"', b"}", b" ", b"\t", b"\n", b"\r")


def refuse_known(path: Path, head: bytes) -> None:
    """Name what is often taken for a checkpoint and is none, or none that is read.

    Args:
      path: for the message.
      head: the first bytes of the file.

    Raises:
      UnsupportedFile: it is such a thing.
    """
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        raise UnsupportedFile(f"{path}: a git-lfs pointer, not the file that it stands for", "git lfs pull")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise UnsupportedFile(
            f"{path}: a web page saved under a checkpoint's name", "download the file itself: the raw or resolve link"
        )
    for magic, what, hint in _REFUSED:
        if head.startswith(magic):
            raise UnsupportedFile(f"{path}: {what}", hint)


_REFUSED = (
    (b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes it", "save the weights as safetensors or .npz first"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip it first"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unxz it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd it first"),
    (b"BZh", "compressed with bzip2", "bunzip2 it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"GGUF", "GGUF, as llama.cpp writes it", "start from the PyTorch or safetensors file"),
    (b"\x93NUMPY", "one array (.npy), without a name", "save it with numpy.savez, which gives it one"),
)


def _folder(path: Path) -> MissingInput:
    """The error for a folder, with a hint that fits what is in it."""
    try:
        inside = sorted(entry.name for entry in os.scandir(path))
    except OSError:
        inside = []
    if any(name in inside for name in ("_CHECKPOINT_METADATA", "_METADATA", "checkpoint", "manifest.ocdbt")):
        hint = "it looks like an Orbax checkpoint: restore it with orbax, and save it with flax.serialization.to_bytes"
        return MissingInput(f"{path}: is a directory", hint)
    endings = (".safetensors.index.json", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".npz", ".msgpack")
    named = [name for ending in endings for name in inside if name.endswith(ending)]
    hint = f"name a file in it, such as {path / named[0]}" if named else "name a file"
    return MissingInput(f"{path}: is a directory", hint)


def _sniff_zip(path: Path, head: bytes, limits: Limits) -> str:
    """Which kind of archive: torch's has a data.pkl in its folder, numpy's holds .npy records."""
    first = head[_ZIP_NAME_AT : _ZIP_NAME_AT + int.from_bytes(head[26:28], "little")]
    for ending, kind in ((b"/data.pkl", "torch"), (b".npy", "npz")):
        if first.endswith(ending):  # so torch and numpy begin; the reader checks the whole directory
            return kind
    from loftr2flax.formats.zip_archive import ZipArchive

    with ZipArchive(path, limits) as archive:
        names = list(archive.entries)
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if not names or any(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.endswith("model.weights.h5") for name in names):
        raise UnsupportedFile(f"{path}: a Keras archive", "save the weights as safetensors or .npz first")
    raise UnsupportedFile(
        f"{path}: a zip archive of something else: {names[0]!r}", "if a checkpoint is packed in it, unpack it first"
    )


def _sniff_pickle(path: Path, head: bytes) -> str:
    """Legacy torch files are pickles that begin with a magic number."""
    if _LEGACY_MAGIC in head[:32]:
        return "torch-legacy"
    if head[1:2] == b"\x00":  # msgpack's empty map and junk behind it, or a pickle of protocol 0; neither is one
        raise UnsupportedFile(f"{path}: not a checkpoint of a known format", FETCH_AGAIN)
    raise UnsupportedFile(
        f"{path}: a plain pickle, which only running it could read",
        "load it where it was made, and save its state dict with torch.save",
    )


def _torch(path: Path, state_dict: str | None, limits: Limits) -> Checkpoint:
    from loftr2flax.formats.torch_zip import TorchZip

    return TorchZip(path, state_dict, limits)


def _torch_legacy(path: Path, state_dict: str | None, limits: Limits) -> Checkpoint:
    from loftr2flax.formats.torch_legacy import TorchLegacy

    return TorchLegacy(path, state_dict, limits)


def _safetensors(path: Path, limits: Limits) -> Checkpoint:
    from loftr2flax.formats.safetensors_file import SafetensorsFile

    return SafetensorsFile(path, limits)


def _index(path: Path, limits: Limits) -> Checkpoint:
    from loftr2flax.formats.safetensors_index import ShardedSafetensors

    return ShardedSafetensors(path, limits)


def _npz(path: Path, limits: Limits) -> Checkpoint:
    from loftr2flax.formats.npz_file import NpzFile

    return NpzFile(path, limits)


def _msgpack(path: Path, limits: Limits) -> Checkpoint:
    from loftr2flax.formats.msgpack_file import MsgpackFile

    return MsgpackFile(path, limits)


_WITH_CONTAINERS: dict[str, Callable[[Path, str | None, Limits], Checkpoint]] = {
    "torch": _torch,
    "torch-legacy": _torch_legacy,
}
_PLAIN: dict[str, Callable[[Path, Limits], Checkpoint]] = {
    "safetensors": _safetensors,
    "index": _index,
    "npz": _npz,
    "msgpack": _msgpack,
}

"""What each kind of content of a PyTorch file does here and in `torch.load`; ``python -m formats.compatibility`` in
`tests/` writes `docs/pytorch-files.md` from it."""

from __future__ import annotations

import argparse
import tempfile
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from formats.torch_files import Call, Claim, Stored, bits, numbers, write_checkpoint

from loftr2flax.errors import Loftr2FlaxError, UnsupportedTensor
from loftr2flax.formats import open_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "pytorch-files.md"

Save = Callable[[Any, Path], object]


class Settings:
    """A user's own class, as hyper-parameters hold."""

    depth = 3


class Subclass(torch.Tensor):
    """A user's own kind of tensor."""


class Row(NamedTuple):
    """A line of the table.

    Attributes:
      content: what the file holds.
      here: what comes of it here, in a zip file and in a legacy one ("" where there is none).
      torch: what comes of it in `torch.load`, likewise.
    """

    content: str
    here: tuple[str, str]
    torch: tuple[str, str]

    def __str__(self) -> str:
        return f"| {self.content} | {' | '.join(filter(None, (*self.here, *self.torch)))} |"


def save_zip(value: object, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def all_dtypes() -> list[torch.dtype]:
    """Every element type that this torch has, by name."""
    found = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return sorted(found, key=str)


def of_dtype(dtype: torch.dtype) -> torch.Tensor:
    """Fifteen elements of arbitrary bits."""
    try:
        return numbers(dtype, 15).view(3, 5)
    except (RuntimeError, TypeError):
        return torch.empty(3, 5, dtype=dtype)


def layouts(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """One tensor for each way to lie in a storage."""
    base = numbers(dtype, 60)
    cube = base.view(5, 4, 3)
    complex_cube = numbers(torch.complex64, 60).view(5, 4, 3)
    return {
        "contiguous": cube,
        "transposed": base.view(12, 5).T,
        "permuted": cube.permute(2, 0, 1),
        "a column: steps and an offset": cube[:, :, 1],
        "expanded: stride 0": base[3:7].unsqueeze(0).expand(6, 4),
        "overlapping windows": base.as_strided((9, 4), (2, 1), 5),
        "diagonal": cube[1].diagonal(),
        "channels last": cube.unsqueeze(0).to(memory_format=torch.channels_last),
        "scalar": base[17],
        "empty": base[:0].view(0, 3),
        "conjugate view": complex_cube.conj(),
        "negative view": complex_cube.conj().imag,
    }


def kinds() -> dict[str, object]:
    """What else a state dict may hold under a name."""
    matrix = torch.arange(12.0).view(3, 4)
    attribute = torch.arange(6.0).view(2, 3)
    attribute.note = "kept by torch"  # type: ignore[attr-defined]
    return {
        "`nn.Parameter`": torch.nn.Parameter(matrix),
        "`nn.Buffer`": torch.nn.Buffer(matrix),
        "tensor with attributes": attribute,
        "tensor subclass": matrix.as_subclass(Subclass),
        "sparse COO": matrix.to_sparse(),
        "sparse CSR": matrix.to_sparse_csr(),
        "sparse CSC": matrix.to_sparse_csc(),
        "sparse BSR": matrix.to_sparse_bsr((1, 2)),
        "sparse BSC": matrix.to_sparse_bsc((1, 2)),
        "quantized per tensor": torch.quantize_per_tensor(matrix, 0.1, 1, torch.qint8),
        "quantized per channel": torch.quantize_per_channel(
            matrix, torch.ones(3), torch.zeros(3, dtype=torch.int64), 0, torch.qint8
        ),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": torch.empty(3, 4, device="meta"),
        "uninitialized parameter": torch.nn.UninitializedParameter(),
    }


def beside() -> dict[str, object]:
    """What may stand beside the tensors of a file."""
    return {
        "numbers, text, lists, dicts": {"epoch": 3, "names": ["a", None], "lr": (0.1, {"b": 1 << 80})},
        "`OrderedDict`, `Counter`": [OrderedDict(a=1), Counter("abc")],
        "`defaultdict`, `set`": [defaultdict(list), {1, 2}],
        "an optimizer's state": torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).state_dict(),
        "`argparse.Namespace`": argparse.Namespace(lr=0.1),
        "a user's own class": Settings(),
        "numpy scalars": np.float64(0.5),
        "numpy arrays": np.arange(6.0).reshape(2, 3),
        "a whole `nn.Module`": torch.nn.Linear(3, 5),
        "a function": torch.nn.functional.relu,
        "a call of `os.getcwd`": Call(__import__("os").getcwd),
    }


def _judged(value: object, save: Save, name: str = "w") -> tuple[str, str]:
    """What this package and `torch.load` make of the leaf ``name`` of a saved dict.

    Raises:
      AssertionError: both read it, and not alike.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "w.pt"
        try:
            save(value, path)
        except Exception:
            return "—", "cannot be saved"
        theirs, said = _load(path)
        ours: np.ndarray | None = None
        try:
            with open_checkpoint(path) as checkpoint:
                assert name in checkpoint.infos, list(checkpoint.infos)
                ours = checkpoint.read(name)
        except UnsupportedTensor as error:
            return f"refused: {error.message.rpartition(' is a ')[2]}", said
        except Loftr2FlaxError as error:
            return f"file refused: {error.message.removeprefix(f'{path}: ')}", said
        expected = theirs[name] if theirs is not None else value[name]  # type: ignore[index]
        assert isinstance(expected, torch.Tensor)
        assert ours.shape == tuple(expected.shape)
        assert str(ours.dtype) == str(expected.dtype).removeprefix("torch.")
        assert bits(ours) == bits(expected.resolve_conj().resolve_neg().as_subclass(torch.Tensor))
        return "same bits", said


def _load(path: Path) -> tuple[Any, str]:
    """The file as `torch.load` has it, and whether it took the safe way, the unsafe one, or none."""
    for safe, said in ((True, "read"), (False, "read if `weights_only=False`")):
        try:
            return torch.load(path, map_location="cpu", weights_only=safe), said
        except Exception:
            continue
    return None, "refused"


def _row(content: str, value: object, name: str = "w") -> Row:
    (here, there), (here_legacy, there_legacy) = (_judged(value, save, name) for save in (save_zip, save_legacy))
    return Row(content, (here, here_legacy), (there, there_legacy))


def dtype_rows() -> Iterator[Row]:
    for dtype in all_dtypes():
        yield _row(f"`{dtype}`", {"w": of_dtype(dtype)})


def layout_rows() -> Iterator[Row]:
    for content, tensor in layouts().items():
        yield _row(content, {"w": tensor, "another": tensor})


def kind_rows() -> Iterator[Row]:
    for content, tensor in kinds().items():
        row = _row(content, {"v": torch.ones(2, 3), "w": tensor})
        if content == "nested":  # torch makes it of memory that was never written
            row = row._replace(torch=(row.torch[0], "read or refused, by chance"))
        yield row


def beside_rows() -> Iterator[Row]:
    for content, other in beside().items():
        yield _row(content, {"w": torch.ones(2, 3), "other": other})


def file_rows() -> Iterator[Row]:
    """Ways in which the file itself can be made."""
    value = {"w": torch.arange(6.0).view(2, 3)}

    def deflated(value: object, path: Path) -> None:
        torch.save(value, path)
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in records.items():
                archive.writestr(name, content)

    def without_crc(value: object, path: Path) -> None:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(value, path)
        finally:
            torch.serialization.set_crc32_options(True)

    def wrong_crc(value: object, path: Path) -> None:
        torch.save(value, path)
        data = path.read_bytes()
        path.write_bytes(data.replace(np.arange(6, dtype=np.float32).tobytes(), bytes(24)))

    def truncated(value: object, path: Path) -> None:
        torch.save(value, path)
        path.write_bytes(path.read_bytes()[:-200])

    def twice(value: object, path: Path) -> None:
        torch.save(value, path)
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(next(n for n in archive.namelist() if n.endswith("/data/0")), bytes(24))

    def two_types(_: object, path: Path) -> None:
        other = Claim(Stored(kind=torch.IntStorage), (2, 3), (3, 1))
        write_checkpoint(path, {"w": Claim(Stored(), (2, 3), (3, 1)), "v": other})

    ways: dict[str, Save] = {
        **{f"pickle protocol {n}": _with_protocol(n) for n in (2, 3, 4, 5)},
        "records deflated": deflated,
        "no CRCs (`set_crc32_options(False)`)": without_crc,
        "a record that fails its CRC": wrong_crc,
        "truncated": truncated,
        "one record twice": twice,
        "one storage under two types": two_types,
    }
    for content, save in ways.items():
        here, there = _judged(value, save)
        yield Row(content, (here, ""), (there, ""))


def _with_protocol(protocol: int) -> Save:
    return lambda value, path: torch.save(value, path, pickle_protocol=protocol)


_HEAD = """# PyTorch files

What each kind of content of a PyTorch file does here, and in `torch.load` of torch {version}. The tables are made by
`python -m formats.compatibility` in `tests/`, from files that `torch.save` writes; a test holds this page against what
the program does. *same bits*: shape, type and every bit are what `torch.load` gives. *refused*: by name, and only where
that tensor is asked for; the others of its file are read. No content is ever run, and no class is imported: what a
pickle would have called is listed by `inspect` under `not run`.

*zip* is what torch has written since 1.6, *legacy* what it wrote before.
"""

_TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "Element types": dtype_rows,
    "Layouts": layout_rows,
    "Kinds of tensor": kind_rows,
    "Beside a tensor in the same file": beside_rows,
    "Files": file_rows,
}


def page() -> str:
    """The text of `docs/pytorch-files.md`."""
    parts = [_HEAD.format(version=torch.__version__.split("+")[0])]
    for title, rows in _TABLES.items():
        made = list(rows())
        kinds = ("zip", "legacy") if made[0].here[1] else ("zip",)
        columns = ["", *(f"here, {kind}" for kind in kinds), *(f"torch.load, {kind}" for kind in kinds)]
        head = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        parts.append("\n".join([f"## {title}", "", *head, *map(str, made), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

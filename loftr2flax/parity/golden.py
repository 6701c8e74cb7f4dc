"""What torch said, in a file: a bundle that a conversion can be judged by where there is no torch.

It is an ``.npz`` that `numpy.load` reads, one group of arrays for each run: ``0/inputs/image/0``,
``0/free/conf_matrix`` (float64, the free run), ``0/alone/conf_matrix`` (float64, the stage alone) and
``0/torch32/matches``. Everything else is JSON, in the array ``about``: names, digests, config, and what float32 cost
torch on every array. The same run gives the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loftr2flax.checkpoint import Checkpoint, LeafInfo
from loftr2flax.errors import CorruptFile, UsageError
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import format_of, open_writer
from loftr2flax.parity.inputs import digest
from loftr2flax.parity.judge import Rounding
from loftr2flax.parity.run import Record
from loftr2flax.parity.values import InputsInfo

SCHEMA = "loftr2flax.golden/1"
_ABOUT = "about"
_PARTS = {"inputs": "inputs", "free": "free", "alone": "alone", "reference": "torch32"}


@dataclass(frozen=True)
class Bundle:
    """An open bundle.

    Attributes:
      kind: of the subject, "loftr" or "custom".
      mapping: the mapping's name; mapping_sha256 and source_sha256 tell which files it was made with.
      config, facts: what the network was built with.
      whole: whether the target is the whole network's tree.
      title: one line for people.
      expected: path → digest of every leaf that the mapping names.
      records, infos: one for each run.
    """

    kind: str
    mapping: str
    mapping_sha256: str
    source_sha256: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    whole: bool
    title: str
    expected: Mapping[str, str]
    records: Sequence[Record]
    infos: Sequence[InputsInfo]


def write_golden(path: str | os.PathLike[str], bundle: Bundle, *, force: bool = False) -> None:
    """Writes a bundle; it appears whole or not at all.

    Raises:
      UsageError: the path does not end in ``.npz``.
      EnvironmentFault: the file is there already, or cannot be written.
    """
    if format_of(path) != "npz":
        raise UsageError(f"{os.fspath(path)}: a golden bundle is an .npz", "end it in .npz")
    arrays: dict[str, np.ndarray] = {}
    runs = []
    for number, (record, info) in enumerate(zip(bundle.records, bundle.infos, strict=True)):
        for part, name in _PARTS.items():
            arrays |= {f"{number}/{name}/{key}": value for key, value in getattr(record, part).items()}
        roundings = {part: _roundings(getattr(record, part)) for part in ("drift", "own")}
        runs.append({"title": info.title, "origin": info.origin, "stages": record.stages, **roundings})
    fields = {name: value for name, value in vars(bundle).items() if name not in ("records", "infos")}
    about = json.dumps({"schema": SCHEMA, **fields, "runs": runs}, sort_keys=True)
    arrays[_ABOUT] = np.frombuffer(about.encode(), np.uint8)
    infos = {name: LeafInfo(array.shape, str(array.dtype)) for name, array in arrays.items()}
    with open_writer(path, "npz", infos, {}, force=force) as writer:
        for name in writer.order:
            writer.write(name, np.ascontiguousarray(arrays[name]))


@contextmanager
def open_golden(path: str | os.PathLike[str]) -> Iterator[Bundle]:
    """A bundle, read whole.

    Raises:
      CorruptFile: it is no bundle, or a damaged one.
      MissingInput: nothing is there.
    """
    with open_checkpoint(path) as file:
        if _ABOUT not in file.infos:
            raise CorruptFile(f"{os.fspath(path)}: not a golden bundle", "make one with `--save-golden`")
        with _blaming(Path(path)):
            about = json.loads(file.read(_ABOUT).tobytes())
            if about.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            runs = about.pop("runs")
            records = [_record(file, number, run) for number, run in enumerate(runs)]
            infos = [_info(record, run) for record, run in zip(records, runs, strict=True)]
            bundle = Bundle(**about, records=records, infos=infos)
        yield bundle


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path}: a damaged golden bundle: {error}", "make it again with `--save-golden`") from error


def _roundings(roundings: Mapping[str, Rounding]) -> dict[str, dict[str, float]]:
    return {name: asdict(rounding) for name, rounding in roundings.items()}


def _record(file: Checkpoint, number: int, run: Mapping[str, Any]) -> Record:
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for part, name in _PARTS.items():
        before = f"{number}/{name}/"
        arrays[part] = {key.removeprefix(before): file.read(key) for key in file.infos if key.startswith(before)}
    stages = {name: tuple(added) for name, added in run["stages"].items()}
    order = [name for added in stages.values() for name in added]
    free, alone = ({name: arrays[part][name] for name in order} for part in ("free", "alone"))
    drift, own = ({name: Rounding(**value) for name, value in run[part].items()} for part in ("drift", "own"))
    return Record(arrays["inputs"], stages, free, alone, drift, own, arrays["reference"])


def _info(record: Record, run: Mapping[str, Any]) -> InputsInfo:
    inputs = record.inputs
    images = tuple(inputs[f"image/{side}"][0, :, :, 0] for side in (0, 1) if f"image/{side}" in inputs)
    shapes = {name: array.shape for name, array in inputs.items()}
    return InputsInfo(str(run["title"]), str(run["origin"]), shapes, images, digest(inputs))

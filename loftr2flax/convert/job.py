"""Converting a checkpoint: fit a mapping, then stream leaf after leaf into a new file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.convert.facts import recorded_facts, spelled, with_facts
from loftr2flax.convert.fitting import find_plan
from loftr2flax.convert.loss import check_losses, kept_names
from loftr2flax.convert.provenance import Kept, Memory, foreign_network, forward_record, reverse_record
from loftr2flax.convert.stream import stream
from loftr2flax.convert.values import Conversion, Order, Progress
from loftr2flax.convert.wayback import forgotten, remembered
from loftr2flax.errors import MappingMismatch, UsageError
from loftr2flax.filehash import STAND_IN, FileHash
from loftr2flax.folding import fold_line
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import format_of, open_writer, written_files
from loftr2flax.mapping import Direction, TensorMapping, load_mapping, shipped_names
from loftr2flax.plan import Plan, Wishes, build_plan

_FORWARD = ("npz", "msgpack", "safetensors")
_REVERSE = ("torch", "safetensors")


def convert_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    mapping: str | os.PathLike[str] | TensorMapping | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Conversion:
    """Converts a PyTorch checkpoint to a Flax one, or back, leaf by leaf.

        convert_checkpoint("outdoor_ds.ckpt", "loftr.npz")
        convert_checkpoint("loftr.npz", "back.ckpt", reverse=True)

    Args:
      source: the file to read, of any format.
      output: the file to write; it appears whole or not at all.
      mapping: a shipped name, a path, or None to find the one that fits.
      progress: called after each leaf.
      **options: the other fields of `Order`, such as format, prefix, state_dict, dtype, reverse and force.

    Returns:
      What was done.

    Raises:
      Loftr2FlaxError: the input is refused, does not fit, or the output cannot be written.
    """
    with prepared(source, output, Order(mapping, **options), FileHash([Path(source)])) as job:
        job.write(progress)
        return job.conversion(written=True)


def plan_conversion(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    mapping: str | os.PathLike[str] | TensorMapping | None = None,
    **options: Any,
) -> Conversion:
    """What `convert_checkpoint` would do, from headers alone; nothing is written.

    Args and Raises: as for `convert_checkpoint`; without ``output`` the format is npz (torch on the way back).
    """
    with prepared(source, output, Order(mapping, **options)) as job:
        return job.conversion(written=False)


class Job(NamedTuple):
    """An open source with its plan."""

    source: Checkpoint
    output: Path | None
    format: str
    order: Order
    plan: Plan
    memory: Memory
    found: bool
    container: str
    digest: FileHash | None
    stated: Mapping[str, Any]
    """Facts that the source's record has otherwise than the mapping."""

    def conversion(self, *, written: bool) -> Conversion:
        """The value that describes it."""
        plan, contents, most = self.plan, self.source.contents, self.order.max_shard_size
        files = written_files(self.output, self.format, plan.infos, most) if self.output is not None else ()
        return Conversion(
            self.source.path, files[0] if files else None, self.format, plan, self.found, self.container,
            contents.containers,
            len(kept_names(self.plan, self.source)) if plan.direction == "forward" else 0,
            (*contents.notes, *self._notes()), sum(info.nbytes for info in plan.infos.values()), written, files,
        )  # fmt: skip

    def write(self, progress: Progress | None = None) -> None:
        """Streams the leaves into the output."""
        assert self.output is not None
        if not self.order.allow_loss:
            check_losses(self.plan, self.source)
        infos = self.plan.infos
        total, done = sum(info.nbytes for info in infos.values()), 0
        moves = {move.leaf: move for move in self.plan.moves}
        force, most = self.order.force, self.order.max_shard_size
        with self.digest or FileHash(self.source.files) as digest:
            writer = open_writer(
                self.output, self.format, infos, partial(self._record, digest), force=force, container=self.container,
                most=most,
            )  # fmt: skip
            with writer as file, closing(stream([moves[name] for name in file.order], self.source)) as made:
                for move, array in made:
                    file.write(move.leaf, array)
                    done += array.nbytes
                    if progress is not None:
                        progress(done, total)

    def _record(self, digest: FileHash, *, final: bool = True) -> dict[str, Any]:
        """The output's provenance; the final one waits for the source's hash."""
        sha256 = digest.hexdigest() if final else STAND_IN
        if self.plan.direction == "reverse":
            return reverse_record(self.plan, self.source, sha256)
        kept = {
            name: Kept(self.source.infos[name], self.source.read(name)) for name in kept_names(self.plan, self.source)
        }
        return forward_record(self.plan, self.source, sha256, kept, self.order.dtype)

    def _notes(self) -> list[str]:
        notes = []
        if self.stated:
            listed = ", ".join(f"{name}={spelled(value)}" for name, value in self.stated.items())
            where = (
                "; the output's record keeps them, a torch network has to be told"
                if self.plan.direction == "reverse"
                else ""
            )
            notes.append(f"{self.source.path} states {listed}, unlike the mapping{where}")
        if self.plan.direction == "reverse":
            name, sha256 = self.memory.mapping
            mapping = self.plan.mapping
            if name and (name, sha256) != (mapping.name, mapping.sha256):
                other = "another mapping" if name != mapping.name else "another version of the mapping"
                notes.append(f"{self.source.path} was made with {name}, {other}")
            if self.memory.dtype is not None:
                notes.append(f"floating-point numbers were cast to {self.memory.dtype} on the way here, and stay so")
            lost = forgotten(self.plan, self.memory, self.order.prefix)
            if lost:
                keys = "1 key" if len(lost) == 1 else f"{len(lost)} keys"
                notes.append(f"not brought back: {keys} of the original, {fold_line(lost)}")
        return notes


@contextmanager
def prepared(
    source: str | os.PathLike[str], output: str | os.PathLike[str] | None, order: Order, begun: FileHash | None = None
) -> Iterator[Job]:
    """An open source with its plan; the source is closed when the block ends.

    Args:
      source, output, order: see `convert_checkpoint`; without an output nothing can be written.
      begun: the hash of the source, where it has been begun already; it is stopped when the block ends.

    Raises:
      Loftr2FlaxError: see `convert_checkpoint`.
    """
    target = Path(output) if output is not None else None
    format = _format(target, order)
    state_dict = order.state_dict if not order.reverse else None
    with begun or nullcontext(), open_checkpoint(source, state_dict, order.limits) as checkpoint:
        if target is not None and target.exists() and any(target.samefile(file) for file in checkpoint.files):
            raise UsageError(f"{target}: is the input itself", "name another output")
        _check_direction(checkpoint, order)
        mapping = load_mapping(order.mapping) if isinstance(order.mapping, str | os.PathLike) else order.mapping
        memory = Memory.of(checkpoint).of_mapping(mapping) if order.reverse else Memory()
        container = checkpoint.contents.container
        if order.reverse:
            container = memory.container if order.state_dict is None else order.state_dict
        wishes = Wishes(order.prefix, order.dtype, order.choose, memory.groups)
        plan = _plan(checkpoint, mapping, order, wishes, memory)
        stated = recorded_facts(checkpoint, plan.mapping)
        unlike = {name: value for name, value in stated.items() if value != plan.mapping.facts[name]}
        plan = plan._replace(mapping=with_facts(plan.mapping, {**stated, **order.facts}))
        _check_readable(checkpoint, plan)
        digest = begun if begun is not None and begun.files == checkpoint.files else None
        yield Job(checkpoint, target, format, order, plan, memory, order.mapping is None, container, digest, unlike)


def _check_direction(checkpoint: Checkpoint, order: Order) -> None:
    """A torch file is not converted back, nor a tree forward: told at once, and not as names that nobody knows."""
    if order.reverse and checkpoint.format.startswith("torch"):
        raise UsageError(
            f"{checkpoint.path}: is a PyTorch file, and --reverse reads a Flax tree", "leave out --reverse"
        )
    if not order.reverse and checkpoint.infos and all("/" in name for name in checkpoint.infos):
        raise UsageError(f"{checkpoint.path}: is a Flax tree already", "`--reverse` goes from Flax to PyTorch")


def _plan(checkpoint: Checkpoint, mapping: TensorMapping | None, order: Order, wishes: Wishes, memory: Memory) -> Plan:
    direction: Direction = "reverse" if order.reverse else "forward"
    path = str(checkpoint.path)
    if mapping is None and (network := foreign_network(checkpoint)):
        message = f"{path}: holds {network}, which no shipped mapping describes"
        raise MappingMismatch(message, "give a mapping of your own with `--mapping`")
    mapping = mapping or shipped_maker(checkpoint, memory.mapping[0])
    if mapping is None:
        plan = find_plan(checkpoint.infos, direction, wishes, path)
    else:
        plan = build_plan(mapping, checkpoint.infos, direction, wishes, path)
    return remembered(plan, memory, order.prefix) if order.reverse else plan


def shipped_maker(checkpoint: Checkpoint, name: str) -> TensorMapping | None:
    """The shipped mapping that a file says that it was made with; None where it does not say.

    Raises:
      MappingMismatch: it was made with a mapping that does not ship.
    """
    stem = name.split("/")[0]
    if name and stem not in shipped_names():
        message = f"{checkpoint.path}: was made with {name}, which does not ship with loftr2flax"
        raise MappingMismatch(message, "give its file with `--mapping`")
    return load_mapping(stem) if stem else None


def _check_readable(checkpoint: Checkpoint, plan: Plan) -> None:
    """A leaf that cannot be had as a plain array is told before anything is written."""
    for move in plan.moves:
        for name in move.inputs:
            if checkpoint.infos[name].refused:
                checkpoint.read(name)  # raises, in the reader's own words


def _format(output: Path | None, order: Order) -> str:
    allowed = _REVERSE if order.reverse else _FORWARD
    format = order.format or (format_of(output) if output is not None else allowed[0])
    if format not in allowed:
        way = "the way back writes PyTorch's formats" if order.reverse else "Flax reads other formats"
        hint = f"one of {', '.join(allowed)}" + ("" if order.reverse else "; `--reverse` goes from Flax to PyTorch")
        raise UsageError(f"{output or format}: {format} is not written here: {way}", hint)
    return format

"""What only a leaf's bytes can tell: its hash and its statistics, in one pass over the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from loftr2flax.checkpoint import Checkpoint
from loftr2flax.formats.leaf_bytes import leaf_blocks, little_endian_bytes
from loftr2flax.inspection.alarms import channel_axis, remarks
from loftr2flax.inspection.statistics import StatsGathering
from loftr2flax.inspection.values import LeafReading

Progress = Callable[[int, int], None]
"""Called with bytes done, and bytes in all."""

_BLOCK = 1 << 18


def read_leaves(
    checkpoint: Checkpoint, names: Sequence[str], *, stats: bool, hashes: bool, progress: Progress | None = None
) -> dict[str, LeafReading]:
    """Hash and statistics of these leaves; of those that cannot be read, nothing.

    Memory is one block where a leaf lies in its file as it is, else that leaf.

    Raises:
      CorruptFile: a checksum or a length is wrong.
    """
    readable = [name for name in names if not checkpoint.infos[name].refused]
    total = sum(checkpoint.infos[name].nbytes for name in readable)
    done = 0
    found: dict[str, LeafReading] = {}
    for name in readable:
        info = checkpoint.infos[name]
        digest = hashlib.sha256()
        gathering = StatsGathering(info, channel_axis(name, info)) if stats else None
        for block in leaf_blocks(checkpoint, name, _BLOCK):
            if hashes:
                digest.update(little_endian_bytes(block))
            if gathering:
                gathering.add(block)
            done += block.nbytes
            if progress:
                progress(done, total)
        numbers = gathering.stats() if gathering else None
        said = remarks(name, info, numbers) if numbers else None
        found[name] = LeafReading(digest.hexdigest() if hashes else "", numbers, said)
    return found

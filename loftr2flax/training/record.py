"""What stands beside a saved state: whose it is, and the hash by which it is known to be whole."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from loftr2flax.errors import UsageError
from loftr2flax.training.config import TrainConfig
from loftr2flax.training.step import TrainState

_FREE = {"num_epochs", "checkpoint_dir", "dataset_root", "save_every", "keep", "log_every", "workers"}
"""What a resumed run may have otherwise without another result; more epochs stretch the learning rate's schedule. A
folder of images may have moved: it is known by what is in it."""


class Record(NamedTuple):
    """Whose a state is.

    Attributes:
      command: the module's verb.
      config: the run's config, as JSON has it.
      images: `ImageSet.sha256`.
      sha256: of the state, by `state_hash`.
    """

    command: str
    config: dict[str, Any]
    images: str
    sha256: str

    @classmethod
    def of(cls, config: TrainConfig, images: str, sha256: str = "") -> Self:
        """The record of a run."""
        return cls(config.command, config.to_json(), images, sha256)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """A record that was read.

        Raises:
          ValueError: it is none.
        """
        if not isinstance(value, dict) or value.keys() != {*cls._fields, "seal"}:
            raise ValueError("its record is damaged")
        seal = value.pop("seal")
        record = cls(**value)
        if seal != record._seal():
            raise ValueError("its record is damaged: its hash is another")
        return record

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes: the fields, and a hash of them."""
        return {**self._asdict(), "seal": self._seal()}

    def _seal(self) -> str:
        return hashlib.sha256(json.dumps(self._asdict(), sort_keys=True).encode()).hexdigest()

    def demand_same(self, now: Record, folder: object) -> None:
        """Whether a run may go on from this one's state.

        Raises:
          UsageError: it is of another module, config or set of images.
        """
        again = "or begin another run in another --checkpoint-dir"
        if self.command != now.command:
            raise UsageError(
                f"{folder}: holds a run of `{self.command}`, and this is `{now.command}`",
                f"`{self.command} --resume` goes on with it, {again}",
            )
        for name in dict.fromkeys((*now.config, *self.config)):
            before, wanted = (json.dumps(config.get(name)) for config in (self.config, now.config))
            if name not in _FREE and before != wanted:
                raise UsageError(
                    f"{name}={wanted}: the run at {folder} has {name}={before}", f"resume with the same config, {again}"
                )
        if self.images != now.images:
            root = now.config["dataset_root"] or "synthetic images"
            raise UsageError(
                f"{root}: not the images that the run at {folder} has had so far",
                f"resume with the same ones (names and bytes), {again}",
            )


def state_hash(state: TrainState) -> str:
    """SHA-256 of every leaf of a state: its name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for where, leaf in jax.tree_util.tree_leaves_with_path(state._asdict()):
        array = np.asarray(leaf.addressable_data(0))
        digest.update(f"{jax.tree_util.keystr(where)} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

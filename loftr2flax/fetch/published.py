"""The LoFTR checkpoints that `loftr2flax fetch` knows by name."""

from __future__ import annotations

from typing import NamedTuple

LICENCE = "Apache-2.0"
ORIGIN = "https://github.com/zju3dv/LoFTR"
"""Where the code and the weights come from; its README states the licence."""


class Published(NamedTuple):
    """A checkpoint that others publish.

    Attributes:
      about: what it was trained on.
      urls: where kornia publishes it (kornia.feature.loftr.urls), in the order to try.
      facts: what `convert` has to be told since no weight shows it, as ``--fact`` takes it.
    """

    about: str
    urls: tuple[str, ...]
    facts: tuple[str, ...] = ()


def _from_kornia(file: str) -> tuple[str, ...]:
    return (
        f"https://huggingface.co/kornia/loftr/resolve/main/{file}",
        f"https://cmp.felk.cvut.cz/~mishkdmy/models/{file}",
    )


PUBLISHED = {
    "outdoor_ds": Published("MegaDepth, dual softmax", _from_kornia("loftr_outdoor.ckpt")),
    "indoor_ds": Published("ScanNet, dual softmax", _from_kornia("loftr_indoor.ckpt")),
    "indoor_ds_new": Published(
        "ScanNet, dual softmax, the corrected position encoding",
        _from_kornia("loftr_indoor_ds_new.ckpt"),
        ("temp_bug_fix=true",),
    ),
}
"""By the names of the paper's authors."""

"""A small trained LoFTR that ships with the package, in the official layout: what the demonstration converts and runs.

`loftr2flax train dense` trained it on synthetic prints and on homographies of synthetic scenes, by the command in
``docs/training.md``: 4 coarse layers of width 32, 2 fine ones of width 16, 8 heads, a backbone at 1/8.
"""

from __future__ import annotations

from pathlib import Path

from loftr2flax.errors import MissingInput

TINY = "loftr_tiny.ckpt"
"""Its file name."""


def tiny_checkpoint() -> Path:
    """Where it lies: inside a wheel, or beside an editable checkout.

    Raises:
      MissingInput: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for path in (package / TINY, package.parent / "tests" / "fixtures" / TINY):
        if path.is_file():
            return path
    raise MissingInput(f"{package}: the checkpoint {TINY} is missing", "install loftr2flax again")

"""Libraries of an extra, asked for where they are used: one that is missing is the environment's fault, not a bug."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loftr2flax.errors import EnvironmentFault


@contextmanager
def needed(what: str, extra: str, *libraries: str) -> Iterator[None]:
    """Imports inside the block; a missing one of ``libraries`` ends in a hint that installs the extra.

        with needed("matching", "parity", "jax", "flax"):
            import jax

    Args:
      what: what cannot be done without them.
      extra: the extra of this package that has them.
      *libraries: their top-level modules. Another module that is missing is a bug, and stays an ImportError.

    Raises:
      EnvironmentFault: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        top = (error.name or "").split(".")[0]
        if top not in libraries:
            raise
        message = f"{what} needs {' and '.join(libraries)}; {top} is not installed"
        raise EnvironmentFault(message, f"pip install 'loftr2flax[{extra}]'") from None

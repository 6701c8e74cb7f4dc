"""What a user may write where a checkpoint is read: a path, or the name of one that has been fetched."""

from __future__ import annotations

import os
from pathlib import Path


def checkpoint(text: str) -> Path:
    """The file that ``text`` stands for. A file of that name comes first; nothing is ever downloaded.

    Args:
      text: a path, a published name such as "outdoor_ds", or a URL that has been fetched.

    Raises:
      MissingInput: a name or a URL that is not in the cache; the hint is the command that fetches it.
      HashMismatch: the cached file is not the one that was fetched.
      EnvironmentFault: there is no cache, nor a home where it could be.
    """
    path = Path(text)
    if os.path.lexists(path):
        return path
    from loftr2flax.fetch.published import PUBLISHED
    from loftr2flax.fetch.urls import is_url

    if not (text in PUBLISHED or is_url(text)):
        return path
    from loftr2flax.fetch.cache import cache_folder, checked, entry

    place = entry(text, cache_folder())
    checked(place)
    return place.file

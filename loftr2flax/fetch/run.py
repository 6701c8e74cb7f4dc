"""Fetching a checkpoint: download, look at it, compare its hash with what is known, and only then give it its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from loftr2flax.errors import EnvironmentFault, HashMismatch, InputError, Loftr2FlaxError, UnsupportedFile, UsageError
from loftr2flax.fetch.cache import Entry, Seen, cache_folder, changed, checked, entry, remember, seen
from loftr2flax.fetch.download import Progress, Receiver, StartOver, Terms, download, pauses
from loftr2flax.fetch.http import NotThere, Unavailable
from loftr2flax.fetch.published import PUBLISHED
from loftr2flax.fetch.urls import check_url, is_url, shown
from loftr2flax.formats.atomic import new_file
from loftr2flax.formats.open import open_checkpoint, refuse_known

_WHAT_TO_DO = "nothing was kept; the address must give the file itself (on a hub its `resolve` link, not its page)"


class Fetched(NamedTuple):
    """A checkpoint in the cache.

    Attributes:
      path: the file.
      seen: its hash, its size, and where it came from.
      downloaded: whether it was downloaded now; else it was there, and its hash was checked.
      first_sight: whether nothing but the connection vouches for its hash.
    """

    path: Path
    seen: Seen
    downloaded: bool
    first_sight: bool


def fetch_checkpoint(
    name: str,
    *,
    sources: Sequence[str] = (),
    sha256: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    again: bool = False,
    terms: Terms | None = None,
    progress: Progress | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Fetched:
    """The file of a published checkpoint, downloaded unless it is there.

        fetch_checkpoint("outdoor_ds").path

    The SHA-256 of what comes first is remembered, and whatever comes under that name later is held against it. A hash
    that is given outranks the one that is remembered.

    Args:
      name: one of `PUBLISHED`, or a URL.
      sources: URLs to take a published name from, instead of those where it is published.
      sha256: what the file must have, 64 hexadecimal digits.
      cache: the folder to keep it in; None for `cache_folder()`.
      again: download also where it is there.
      terms: time, attempts and bytes that it may take.
      progress: called while bytes come.
      notice: called with a line of talk, such as that a source failed and the next one is tried.

    Raises:
      UsageError: a name that nobody knows, a URL that is not fetched, a hash that is none.
      HashMismatch: what came has another hash than what was asked for, or than at first sight.
      UnsupportedFile, CorruptFile, LimitExceeded: what came is no checkpoint, or too large.
      MissingInput, EnvironmentFault: no source has it; the network or the cache is in the way.
    """
    terms = terms or Terms()
    wanted = _hash(sha256)
    place = entry(name, cache_folder(cache))
    before = seen(place)
    addresses = _addresses(name, sources, hash_known=bool(wanted or before))
    if not again and before and place.file.is_file() and wanted in (None, before.sha256):
        return Fetched(place.file, checked(place), downloaded=False, first_sight=False)
    _make(place.file.parent)
    failures: list[Unavailable | NotThere] = []
    for number, url in enumerate(addresses):
        try:
            return _fetch(place, url, wanted, before, terms, progress)
        except (Unavailable, NotThere) as failure:
            failures.append(failure)
            if number + 1 < len(addresses):
                notice(f"{failure.message}; trying {shown(addresses[number + 1])}")
    raise _all_of(name, failures)


def _fetch(
    place: Entry, url: str, wanted: str | None, before: Seen | None, terms: Terms, progress: Progress | None
) -> Fetched:
    tries = pauses(terms)
    while True:
        try:
            with new_file(place.file, force=True) as file:
                receiver = Receiver(file, lambda head: _look(file.source, url, lambda path: refuse_known(path, head)))
                download(url, receiver, terms, tries, progress)
                file.settle()
                _look(file.source, url, lambda path: open_checkpoint(path).close())
                came = Seen(shown(place.name), shown(url), receiver.sha256.hexdigest(), receiver.size, _now())
                kept = _trusted(place, came, wanted, before)
            return Fetched(place.file, kept, downloaded=True, first_sight=not (wanted or before))
        except StartOver:
            continue


def _trusted(place: Entry, came: Seen, wanted: str | None, before: Seen | None) -> Seen:
    """The record of what came, once its hash is the one that it must be."""
    if wanted and came.sha256 != wanted:
        message = f"{came.url}: is not the file that was asked for: sha256 {came.sha256}, not {wanted}"
        raise HashMismatch(message, "nothing was kept; check the hash, and where it is from")
    if before and not wanted and came.sha256 != before.sha256:
        raise changed(place, before, came.sha256)
    if before and came.sha256 == before.sha256:
        return before
    remember(place, came, replace=bool(before))
    return came


def _look(path: Path, url: str, reader: Callable[[Path], None]) -> None:
    """Has a reader look at what came; what it refuses is told under the name of the URL.

    Raises:
      UnsupportedFile: it is a page, a pointer, or another thing that is no checkpoint.
    """
    try:
        reader(path)
    except InputError as refused:
        raise UnsupportedFile(refused.message.replace(str(path), shown(url)), _WHAT_TO_DO) from None


def _addresses(name: str, sources: Sequence[str], *, hash_known: bool) -> Sequence[str]:
    if name not in PUBLISHED and not is_url(name):
        near = get_close_matches(name, PUBLISHED, 1)
        known = f"known are {', '.join(PUBLISHED)}; anything else by its URL"
        raise UsageError(
            f"{name}: no published checkpoint has that name", f"loftr2flax fetch {near[0]}" if near else known
        )
    if sources and name not in PUBLISHED:
        raise UsageError("--from goes with a published name", f"one of {', '.join(PUBLISHED)}; a URL is its own source")
    addresses = sources or (PUBLISHED[name].urls if name in PUBLISHED else (name,))
    for url in addresses:
        check_url(url, hash_known=hash_known)
    return addresses


def _hash(text: str | None) -> str | None:
    if text is None:
        return None
    digits = text.strip().lower()
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise UsageError(f"--sha256 {text}: not 64 hexadecimal digits", "`sha256sum FILE` prints them")
    return digits


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "name another folder: --cache DIR, or LOFTR2FLAX_CACHE"
        raise EnvironmentFault(f"{folder}: cannot be created: {error.strerror}", hint) from None


def _all_of(name: str, failures: Sequence[Unavailable | NotThere]) -> Loftr2FlaxError:
    """One error for all sources: the machine's fault if it is the fault of any."""
    if len(failures) == 1:
        return failures[0]
    worst = next((failure for failure in failures if isinstance(failure, Unavailable)), failures[0])
    return type(worst)(f"{shown(name)}: no source has it: {'; '.join(f.message for f in failures)}", worst.hint)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

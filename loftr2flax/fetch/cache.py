"""Where downloads are kept, and what was seen of each when it came for the first time.

A download is two files: the checkpoint, and beside it ``….seen.json`` with its SHA-256. The second one stays the
measure of all that comes under that name later, also where the first has been removed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loftr2flax.errors import CorruptFile, EnvironmentFault, HashMismatch, MissingInput, OutputExists
from loftr2flax.fetch.published import PUBLISHED
from loftr2flax.fetch.urls import shown

VARIABLE = "LOFTR2FLAX_CACHE"
_LONGEST_STEM = 80


class Seen(NamedTuple):
    """What a download was at first sight.

    Attributes:
      name: a published name, or the URL without its query.
      url: where it came from, without the query.
      sha256: of the whole file, 64 hexadecimal digits.
      size: bytes.
      time: of first sight, UTC, ISO 8601.
    """

    name: str
    url: str
    sha256: str
    size: int
    time: str


class Entry(NamedTuple):
    """The place of one download; nothing need be there."""

    name: str
    file: Path
    record: Path

    @property
    def cached(self) -> bool:
        """Whether it can be used: the file and the record of its hash are there."""
        return self.file.is_file() and self.record.is_file()


def cache_folder(asked: str | os.PathLike[str] | None = None) -> Path:
    """``asked``, or $LOFTR2FLAX_CACHE, or loftr2flax in $XDG_CACHE_HOME or in ~/.cache; it need not exist.

    Raises:
      EnvironmentFault: none of them is set, and there is no home.
    """
    if named := asked or os.environ.get(VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, says the XDG base directory specification
        return Path(base, "loftr2flax")
    home = os.path.expanduser("~")
    if home == "~":
        raise EnvironmentFault("no folder for downloads: there is no home", f"name one: --cache DIR, or {VARIABLE}")
    return Path(home, ".cache", "loftr2flax")


def entry(name: str, folder: Path) -> Entry:
    """The place for a published name or a URL."""
    file = folder / (f"{name}.ckpt" if name in PUBLISHED else _file_name(name))
    return Entry(name, file, file.with_name(f"{file.name}.seen.json"))


def seen(place: Entry) -> Seen | None:
    """What is remembered of it; None where it has never been fetched.

    Raises:
      CorruptFile: the record is not one of ours.
    """
    import json

    hint = "remove it, and the next fetch trusts what comes"
    try:
        if not stat.S_ISREG(place.record.stat().st_mode):
            raise CorruptFile(f"{place.record}: not a file, so no record of a download", hint)
        text = place.record.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record = json.loads(text)
        found = Seen(*(record[field] for field in Seen._fields))
        texts = (found.name, found.url, found.sha256, found.time)
        whole = type(found.size) is int and 0 <= found.size < 1 << 63
        if not (whole and all(isinstance(text, str) for text in texts) and re.fullmatch("[0-9a-f]{64}", found.sha256)):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptFile(f"{place.record}: not a record of a download", hint) from None
    return found


def remember(place: Entry, what: Seen, *, replace: bool) -> None:
    """Writes the record; of several at once the first one stays.

    Raises:
      HashMismatch: another file was remembered meanwhile, and ``replace`` is not set.
    """
    import json

    from loftr2flax.formats.atomic import new_file

    text = json.dumps({"schema": "loftr2flax.seen/1", **what._asdict()}, indent=2) + "\n"
    try:
        with new_file(place.record, force=replace) as record:
            record.write(text.encode())
    except OutputExists:
        before = seen(place)
        if before is not None and before.sha256 != what.sha256:
            raise changed(place, before, what.sha256) from None


def changed(place: Entry, before: Seen, now: str) -> HashMismatch:
    """The error for a download that is not what it was at first sight."""
    return HashMismatch(
        f"{shown(place.name)}: has changed: sha256 {now} now, {before.sha256} when it was first seen ({before.time})",
        f"if the change is meant, say so: `loftr2flax fetch {shown(place.name)} --sha256 {now}`",
    )


def checked(place: Entry) -> Seen:
    """What is remembered of a cached file, after a look at every byte of it.

    Raises:
      MissingInput: it is not cached.
      HashMismatch: the file is not what it was.
    """
    before = seen(place)
    if before is None or not place.file.is_file():
        raise MissingInput(f"{shown(place.name)}: is not in the cache", f"loftr2flax fetch {shown(place.name)}")
    from loftr2flax.filehash import FileHash

    now = FileHash([place.file]).hexdigest()
    if now != before.sha256:
        message = f"{place.file}: is not the file that was fetched: sha256 {now} now, {before.sha256} then"
        raise HashMismatch(message, f"loftr2flax fetch {shown(place.name)} --again")
    return before


def entries(folder: Path) -> Iterator[tuple[Entry, Seen | None]]:
    """Every published name, and every URL that has been fetched, with what is remembered of it."""
    places = [entry(name, folder) for name in PUBLISHED]
    yield from ((place, seen(place)) for place in places)
    named = {place.record for place in places}
    for record in sorted(folder.glob("*.seen.json")):
        if record not in named:
            place = Entry("", record.with_name(record.name.removesuffix(".seen.json")), record)
            found = seen(place)
            if found is not None:
                yield place._replace(name=found.name), found


def _file_name(url: str) -> str:
    """A name for a URL's file that no other URL has: the end of its path, and a hash of all of it."""
    import hashlib

    last = shown(url).rstrip("/").rpartition("/")[2]
    stem, dot, ending = re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".").rpartition(".")
    tag = hashlib.sha256(url.partition("#")[0].encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{(stem or ending)[:_LONGEST_STEM]}-{tag}" + (f".{ending[:20]}" if stem and dot else "")

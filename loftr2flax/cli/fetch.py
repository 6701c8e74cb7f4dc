"""`loftr2flax fetch`: published checkpoints, downloaded once. The only verb that uses the network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import completion, options
from loftr2flax.cli.output import emit, emit_json, progress_bar, say, size_text, table
from loftr2flax.errors import UsageError
from loftr2flax.fetch.published import LICENCE, ORIGIN, PUBLISHED

if TYPE_CHECKING:
    from loftr2flax.fetch.cache import Entry, Seen
    from loftr2flax.fetch.run import Fetched

_PATIENCE = 1 << 20  # bytes that come without a bar

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME|URL",
        help=f"{', '.join(PUBLISHED)}, or a URL.",
        show_default=False,
        autocompletion=completion.published,
    ),
]
From = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="URL", help="Take NAME from here, not from where it is published. Repeatable."),
]
Sha256 = Annotated[
    str | None,
    typer.Option("--sha256", metavar="HEX", help="What the file must have; outranks the hash that is remembered."),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Where to keep it. Default: $LOFTR2FLAX_CACHE, or the user's cache."),
]
Again = Annotated[bool, typer.Option("--again", help="Download also what is there; its hash must be the same.")]
Timeout = Annotated[int, typer.Option("--timeout", metavar="SECONDS", min=1, max=3600, help="To wait for an answer.")]
Retries = Annotated[
    int, typer.Option("--retries", metavar="N", min=0, help="Further attempts if the connection breaks.")
]
MaxBytes = Annotated[
    str, typer.Option("--max-bytes", metavar="SIZE", help="The largest file that is taken, e.g. 500MB.")
]
List = Annotated[bool, typer.Option("--list", help="Show the names that are known, and what is in the cache.")]


def fetch(
    name: Name = None,
    sources: From = None,
    sha256: Sha256 = None,
    cache: Cache = None,
    again: Again = False,
    timeout: Timeout = 30,
    retries: Retries = 5,
    max_bytes: MaxBytes = "2GiB",
    list_: List = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a published LoFTR checkpoint once; other verbs then take its name. Prints where it is."""
    if list_:
        if name is not None:
            raise UsageError("--list takes no name", "loftr2flax fetch --list")
        _show_list(cache, json)
        return
    if name is None:
        raise UsageError("what is to be fetched is not named", "`loftr2flax fetch --list` shows what is known")
    from loftr2flax.fetch.download import Terms
    from loftr2flax.fetch.run import fetch_checkpoint

    with progress_bar("fetching", patience=_PATIENCE) as progress:
        found = fetch_checkpoint(
            name,
            sources=sources or (),
            sha256=sha256,
            cache=cache,
            again=again,
            terms=Terms(timeout, retries, options.parse_size("--max-bytes", max_bytes)),
            progress=progress,
            notice=say,
        )
    if json:
        emit_json("fetch", {**_describe_file(found), "licence": LICENCE if name in PUBLISHED else None})
        return
    _tell(name, found, named=cache is not None)
    emit(str(found.path))


def _tell(name: str, found: Fetched, *, named: bool) -> None:
    seen = found.seen
    say(f"{'fetched from' if found.downloaded else 'in the cache; came from'} {seen.url}, {size_text(seen.size)}")
    trust = "remembered: from now on it must be this" if found.first_sight else "as expected"
    say(f"sha256 {seen.sha256}, {trust}")
    if name in PUBLISHED:
        say(f"licence {LICENCE}, {ORIGIN}")
    known = PUBLISHED.get(name)
    source = str(found.path) if named else name
    facts = [word for fact in known.facts for word in ("--fact", fact)] if known else []
    words = ["loftr2flax", "convert", source, *facts, "-o", f"{name if known else 'out'}.npz"]
    say(f"next: {shlex.join(words)}")


def _show_list(cache: Path | None, json: bool) -> None:
    from loftr2flax.fetch.cache import cache_folder, entries

    folder = cache_folder(cache)
    found = list(entries(folder))
    if json:
        checkpoints = [_describe_entry(place, seen) for place, seen in found]
        emit_json("fetch.list", {"cache": str(folder), "licence": LICENCE, "checkpoints": checkpoints})
        return
    table([("NAME", "CACHED", "SIZE", "SHA256", "ABOUT"), *(_row(place, seen) for place, seen in found)], right=(2,))
    say(f"licence of the named ones: {LICENCE}, {ORIGIN}")
    say(f"cache: {folder}")


def _row(place: Entry, seen: Seen | None) -> tuple[str, ...]:
    known = PUBLISHED.get(place.name)
    cached = "yes" if place.cached else "no"
    about = known.about if known else ""
    return (
        (place.name, cached, size_text(seen.size), f"{seen.sha256[:16]}…", about)
        if seen
        else (place.name, cached, "", "", about)
    )


def _describe_file(found: Fetched) -> dict[str, Any]:
    return {
        "name": found.seen.name,
        "path": str(found.path),
        "url": found.seen.url,
        "sha256": found.seen.sha256,
        "bytes": found.seen.size,
        "downloaded": found.downloaded,
        "first_sight": found.first_sight,
    }


def _describe_entry(place: Entry, seen: Seen | None) -> dict[str, Any]:
    known = PUBLISHED.get(place.name)
    return {
        "name": place.name,
        "cached": place.cached,
        "path": str(place.file),
        "sha256": seen.sha256 if seen else None,
        "bytes": seen.size if seen else None,
        "first_seen": seen.time if seen else None,
        "urls": list(known.urls) if known else [place.name],
        "facts": list(known.facts) if known else [],
        "about": known.about if known else None,
    }

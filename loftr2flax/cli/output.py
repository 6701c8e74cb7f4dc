"""What the command line writes: data to stdout, talk to stderr. Nothing else in the package prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from loftr2flax.errors import EnvironmentFault, Loftr2FlaxError, MappingError
from loftr2flax.escaping import name_of as name_of
from loftr2flax.escaping import printable as printable

_NARROWEST = 24  # characters that are left of a name, however narrow the terminal
_LONGEST = 2000  # characters of a line of an error


class ReaderGone(Exception):
    """Whoever read our data has closed the pipe: `loftr2flax inspect FILE | head -1`."""


quiet = False
"""Whether `--quiet` was given: talk that is neither an error nor data is left out."""


def emit(text: str = "") -> None:
    """A line of data."""
    _data(text)


def say(text: str) -> None:
    """A line of talk."""
    if not quiet:
        _talk(printable(text))


def complain(message: str, hint: str) -> None:
    """An error and its hint. Further lines of the message are indented, so that no leaf's name can pass for a hint."""
    paint = _painter()
    first, *more = map(_cut, printable(message).split("\n"))
    _talk(f"{paint('error:', '1;31')} {first}")
    for line in more:
        _talk(line if line.startswith("  ") else f"  {line}")
    if hint:
        _talk(f"{paint('hint:', '1;36')} {_cut(name_of(hint))}")


def _cut(line: str) -> str:
    """A line of an error; a name of thousands of characters in it loses its middle."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def emit_json(schema: str, value: Mapping[str, Any]) -> None:
    """One JSON document with its schema's name, in ASCII; a name in it cannot command GitHub's log (``##[error]``)."""
    import json

    text = json.dumps({"schema": f"loftr2flax.{schema}/1", **value}, indent=2, ensure_ascii=True)
    _data(text.replace("##[", "#\\u0023["))


def error_values(error: Loftr2FlaxError) -> dict[str, Any]:
    """An error as a JSON document has it."""
    faults = error.faults if isinstance(error, MappingError) else ()
    told = [
        {
            "file": fault.place.file if fault.place else "",
            "line": fault.place.line if fault.place else 0,
            "column": fault.place.column if fault.place else 0,
            "message": fault.message,
            "hint": fault.hint,
        }
        for fault in faults
    ]
    return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code, "faults": told}


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), names: int = 0) -> None:
    """Aligned columns; those numbered in ``right`` end flush.

    On a terminal lines fit: the column numbered ``names`` is cut in the middle, and a last one that is too long all the
    same goes on below itself.
    """
    if not rows:
        return
    cells = [[name_of(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    room = terminal_width()
    if room is not None:
        others = [min(w, _NARROWEST) if n == len(widths) - 1 else w for n, w in enumerate(widths) if n != names]
        widths[names] = min(widths[names], max(room - sum(others) - 2 * len(others), _NARROWEST))
    for row in cells:
        shown = [cut_middle(cell, widths[n]) if n == names else cell for n, cell in enumerate(row)]
        padded = [c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(shown, widths, strict=True))]
        before = "".join(f"{cell}  " for cell in padded[:-1])
        for number, line in enumerate(_folded(padded[-1].rstrip(), None if room is None else room - len(before))):
            emit(f"{' ' * len(before) if number else before}{line}".rstrip())


def _folded(text: str, width: int | None) -> list[str]:
    """A cell as lines of at most ``width`` characters, broken at blanks; one line if it fits or nothing bounds it."""
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    return textwrap.wrap(text, max(width, _NARROWEST), break_long_words=False, break_on_hyphens=False)


def terminal_width() -> int | None:
    """Columns of the terminal that data go to; None for a file or a pipe, where nothing is cut or painted."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def cut_middle(text: str, width: int) -> str:
    """Text of at most ``width`` characters, the middle of a longer one left out: ``matcher.back…weight``."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def painted(text: str, code: str) -> str:
    """Data in colour, on a terminal that wants it."""
    return f"\x1b[{code}m{text}\x1b[0m" if terminal_width() is not None and _wants_colour() else text


def size_text(nbytes: int) -> str:
    """Bytes in binary units: 44.1 MiB."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def plural(count: int, word: str, many: str = "") -> str:
    """``1 leaf``, ``2,048 leaves``."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def leaves(count: int) -> str:
    """``1 leaf``, ``2,048 leaves``."""
    return plural(count, "leaf", "leaves")


@contextmanager
def progress_bar(what: str, *, patience: int = 64 << 20) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal's stderr for work of more than ``patience`` bytes; None where nobody would see it."""
    if quiet or not _on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, visible=False)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=total > patience)

        yield update


@contextmanager
def step_bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar on a terminal's stderr for steps of a known number, with a word; None where nobody would see it."""
    if quiet or not _on_terminal():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", visible=False)
        yield lambda done, total, word: bar.update(task, completed=done, total=total, description=word, visible=True)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _wants_colour() -> bool:
    import os

    return not os.environ.get("NO_COLOR")


def _painter() -> Callable[[str, str], str]:
    if _on_terminal() and _wants_colour():
        return lambda text, code: f"\x1b[{code}m{text}\x1b[0m"
    return lambda text, code: text


def _data(text: str) -> None:
    if sys.stdout is None:  # closed before we began
        raise EnvironmentFault(
            "stdout is closed, and what was asked for goes there", "leave it open, or send it to a file"
        )
    with blaming_stdout():
        _write(sys.stdout, text)


@contextmanager
def blaming_stdout() -> Iterator[None]:
    """Turns the system's refusal to take our data into an error of ours.

    Raises:
      ReaderGone: the pipe is closed.
      EnvironmentFault: the disk is full, or worse.
    """
    try:
        yield
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        message = f"standard output cannot be written: {error.strerror}"
        raise EnvironmentFault(message, "send it to a place with space") from None


def _talk(text: str) -> None:
    with suppress(OSError):  # nobody listens any more: no reason to stop the work that is talked about
        _write(sys.stderr, text)


def _write(stream: Any, text: str) -> None:
    if stream is None:  # closed before we began
        return
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:  # a terminal or a pipe that knows ASCII alone
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")

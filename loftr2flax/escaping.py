"""Names from files as they can be shown: on one line, and without power over a terminal or a CI's log."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def printable(text: str) -> str:
    """Text in which nothing can move the cursor, forge a line, or be taken for a command by GitHub's log.

    Control characters are escaped as Python escapes them, so is the first colon of a line that begins with ``::``, and
    so is what makes ``##[error]`` a command anywhere in a line.
    """
    shown = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
    if "::" in shown:
        shown = _COMMAND.sub(r"\1\\x3a", shown)
    return shown.replace("##[", "#\\x23[")


def name_of(text: str) -> str:
    """A name from a file, on one line."""
    return printable(text).replace("\n", "\\n")

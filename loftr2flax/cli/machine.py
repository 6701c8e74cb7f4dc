"""`--format github` and `--format junit`: findings for CI systems."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loftr2flax.cli.output import emit
from loftr2flax.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from loftr2flax.findings import Findings

FORMS = ("github", "junit")
Format = Annotated[
    Literal["github", "junit"] | None,
    typer.Option("--format", help="github: annotations, and a summary of the job; junit: XML on stdout."),
]


def one_form(json: bool, form: str | None) -> None:
    """Whether one form was asked for, before any work is done.

    Raises:
      UsageError: two were.
    """
    if json and form:
        raise UsageError(f"--json and --format {form} ask for two forms", "run it once for each")


def verb(arguments: Sequence[str]) -> str:
    """Which verb a command line names, if it is one of those that have these forms."""
    words = arguments[: 2 if arguments[:1] == ["verify"] else 1]
    return " ".join(words) if words and words[0] in ("verify", "diff") else ""


def asked(arguments: Sequence[str]) -> str | None:
    """The form that a command line asks for, where the line itself may be what is wrong."""
    if not verb(arguments):
        return None
    words = list(takewhile("--".__ne__, arguments))
    named = [word.partition("=")[2] for word in words if word.startswith("--format=")]
    named += [value for word, value in pairwise(words) if word == "--format"]
    return next((form for form in named if form in FORMS), None)


def show(found: Findings, form: str) -> None:
    """Data on stdout; with github, a section in the job's summary too, where there is one.

    Raises:
      EnvironmentFault: the summary cannot be written.
    """
    from loftr2flax.findings import github, junit

    if form == "junit":
        emit(junit.document(found))
        return
    for command in github.commands(found):
        emit(command)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(github.summary(found))
        except OSError as error:
            message = f"$GITHUB_STEP_SUMMARY: {path}: cannot be written: {error.strerror}"
            raise EnvironmentFault(message, "unset it, or name a file that can be written") from None

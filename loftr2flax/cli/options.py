"""Options that several verbs share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loftr2flax.cli import output
from loftr2flax.errors import UsageError
from loftr2flax.mapping.names import IndexValue


def _be_quiet(value: bool) -> bool:
    output.quiet = value
    return value


Source = Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint to read, of any format.", show_default=False)]
MappingName = Annotated[
    str | None,
    typer.Option("--mapping", "-m", metavar="NAME|FILE", help="A shipped mapping, or a YAML file. Default: the one that fits."),
]
Prefix = Annotated[
    str | None,
    typer.Option("--prefix", metavar="NAMES", help="Where the mapping's names begin, if that is not found by itself. With --reverse: what to put before the keys."),
]
StateDict = Annotated[
    str | None,
    typer.Option("--state-dict", metavar="NAME", help="Which dict of tensors in the file to take (e.g. model_ema); '' is the file itself."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk on stderr but errors.", callback=_be_quiet)]


def parse_choices(texts: list[str]) -> dict[str, IndexValue]:
    """``["j=0"]`` → ``{"j": 0}``.

    Raises:
      UsageError: an entry is not ``index=value``.
    """
    choices: dict[str, IndexValue] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--choose {text}: not an index and its value", "such as `--choose j=0`")
        choices[name] = int(value) if value.isdigit() else value
    return choices

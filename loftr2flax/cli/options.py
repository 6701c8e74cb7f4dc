"""Options that several verbs share, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loftr2flax.cli import completion, output
from loftr2flax.cli.gathered import gathered
from loftr2flax.errors import UsageError
from loftr2flax.fetch import source
from loftr2flax.limits import DEFAULT
from loftr2flax.limits import Limits as Limits

if TYPE_CHECKING:
    from loftr2flax.mapping.names import IndexValue


def _be_quiet(value: bool) -> bool:
    output.quiet = value
    return value


def checkpoint(metavar: str, help: str) -> Any:
    """An argument that names a checkpoint to read: a file, or the name of one that has been fetched."""
    return typer.Argument(metavar=metavar, help=help, show_default=False, parser=source.checkpoint)


Source = Annotated[Path, checkpoint("FILE", "The checkpoint to read, of any format, or the name of a fetched one.")]
MappingName = Annotated[
    str | None,
    typer.Option(
        "--mapping",
        "-m",
        metavar="NAME|FILE",
        help="A shipped mapping, or a YAML file. Default: the one that fits.",
        autocompletion=completion.mappings,
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="NAMES",
        help="Where the mapping's names begin in FILE, if that is not found by itself.",
    ),
]
StateDict = Annotated[
    str | None,
    typer.Option(
        "--state-dict",
        metavar="NAME",
        help="Which dict of tensors in the file to take (e.g. model_ema); '' is the file itself.",
    ),
]
_LIMITS: dict[str, Any] = {
    "max_tensors": Annotated[
        int | None,
        typer.Option(
            "--max-tensors",
            metavar="N",
            min=1,
            show_default=False,
            help="Refuse a file with more leaves: 200000.",
        ),
    ],
    "max_bytes": Annotated[
        str | None,
        typer.Option(
            "--max-bytes",
            metavar="SIZE",
            show_default=False,
            help="Refuse a file whose leaves would take more, unpacked: four times the file and 64MiB.",
        ),
    ],
    "max_memory": Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            show_default=False,
            help="Refuse a file whose pickle, header or directory would take more memory: 256MiB.",
        ),
    ],
}
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No talk on stderr but errors.", callback=_be_quiet)]


def limited(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that reads checkpoints: its parameter ``limits`` is made up by the options that bound what a file may ask.

    Raises:
      UsageError: when it runs, where a size is none.
    """
    return gathered(verb, "limits", _LIMITS, _limits)


def _limits(max_tensors: int | None, max_bytes: str | None, max_memory: str | None) -> Limits:
    return Limits(
        DEFAULT.tensors if max_tensors is None else max_tensors,
        DEFAULT.bytes if max_bytes is None else parse_size("--max-bytes", max_bytes),
        DEFAULT.memory if max_memory is None else parse_size("--max-memory", max_memory),
    )


def parse_facts(texts: list[str]) -> dict[str, Any]:
    """``["heads=1", "layer_norm_eps=1e-7"]`` → numbers, truth values or words by name.

    Raises:
      UsageError: an entry is not ``name=value``.
    """
    return {name: _value(value) for name, value in (_pair("--fact", text, "heads=1") for text in texts)}


def parse_choices(texts: list[str]) -> dict[str, IndexValue]:
    """``["j=0"]`` → ``{"j": 0}``.

    Raises:
      UsageError: an entry is not ``index=value``.
    """
    pairs = [_pair("--choose", text, "j=0") for text in texts]
    return {name: value if (number := _whole(value)) is None else number for name, value in pairs}


_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    prefix + unit: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for unit, base in (("B", 1000), ("iB", 1024))
}


def parse_size(option: str, text: str) -> int:
    """``"500MB"``, ``"2GiB"`` or ``"4096"`` → bytes.

    Raises:
      UsageError: it is not a whole number above zero and a unit.
    """
    digits = text.rstrip("".join(_UNITS) + " ")
    unit = _UNITS.get(text[len(digits) :].strip())
    number = _whole(digits)
    if not number or unit is None:
        raise UsageError(f"{option} {text}: not a size", f"a whole number and a unit, such as `{option} 2GB` or 500MiB")
    return number * unit


def _whole(digits: str) -> int | None:
    """The number that ASCII digits spell, or None; one of more than 18 is no count of anything."""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{option} {text}: not a name and its value", f"such as `{option} {example}`")
    return name, value


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

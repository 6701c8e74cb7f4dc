"""docs/reference.md: every verb with its arguments and options, as the program itself knows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from loftr2flax.cli.app import build_app

_SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"
_HEAD = """\
# Reference

Every verb of `loftr2flax` with its arguments and options, made from the program by `python -m tools`; `make lint` says
when it is stale. Data goes to stdout, talk to stderr. `--help`, or `-h`, works behind any verb.

`loftr2flax --install-completion` sets up completion in bash, zsh, fish or PowerShell, whichever it runs in: verbs,
options and their values, names of mappings and of published checkpoints, files. `--show-completion` prints the script.

| exit code | means |
|---|---|
| 0 | done, and the answer is yes |
| 1 | done, and the answer is no: differs, parity fails, a finding |
| 2 | usage |
| 3 | input refused: corrupt, unsafe, unsupported, does not fit the mapping |
| 4 | environment: disk, permission, a missing extra |
| 5 | nothing was compared |
| 70 | a bug of ours |
| 130, 143 | interrupted |
| 141 | the reader of the output went away |
"""
_DOCUMENTS = """\
## Documents

With `--json` a verb prints one document, whose field `schema` names its form. The form is strict: no field is ever
absent and there are no others; what changes gets a new number. Where a verb fails it prints `loftr2flax.error/1`
instead, with the text of the `error:` and `hint:` lines and with the exit code; interrupted, it prints nothing.

| document | is |
|---|---|
"""


def reference() -> str:
    """The page."""
    parts = [_HEAD, *(_verb(name, command) for name, command in verbs()), _documents()]
    return "\n".join(parts)


def verbs() -> Iterator[tuple[str, Any]]:
    """Every verb as it is typed, with its command, in the order of `--help`."""
    yield from _below("", typer.main.get_command(build_app()))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for verb, inner in command.commands.items():
        yield from _below(f"{name} {verb}".strip(), inner)


def _verb(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(["loftr2flax", name, *(p.make_metavar(None) for p in arguments)])
    rows = [_row(p.make_metavar(None), p) for p in arguments]
    rows += [_row(", ".join(sorted(p.opts, key=len, reverse=True)) + _value(p), p) for p in options]
    lines = [f"## {name}", "", command.help, "", f"    {usage}", "", "| | |", "|---|---|", *rows, ""]
    documents = sorted(_SCHEMAS.glob(f"loftr2flax.{name.replace(' ', '.')}.*.json"))
    lines += [f"`--json` prints {' or '.join(map(_link, documents))}.", ""]
    return "\n".join(lines)


def _row(shown: str, parameter: Any) -> str:
    words = [parameter.help or ""]
    if parameter.multiple and "epeatable" not in words[0] and "wice" not in words[0]:
        words.append("Repeatable.")
    if parameter.default not in (None, False, ()) and "efault" not in words[0]:
        words.append(f"Default: {parameter.default}.")
    return f"| `{_cell(shown)}` | {_cell(' '.join(words))} |"


def _value(parameter: Any) -> str:
    return "" if parameter.is_flag else f" {parameter.make_metavar(None)}"


def _documents() -> str:
    rows = []
    for path in sorted(_SCHEMAS.glob("loftr2flax.*.json")):
        rows.append(f"| {_link(path)} | {_cell(json.loads(path.read_text('utf-8'))['description'])} |")
    return _DOCUMENTS + "\n".join(rows) + "\n"


def _link(path: Path) -> str:
    return f"[`{json.loads(path.read_text('utf-8'))['title']}`](schemas/{path.name})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

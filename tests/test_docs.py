"""Each verb, option and heading is documented, and what the pages show is what the program does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.main

import loftr2flax
from loftr2flax.cli.app import build_app
from loftr2flax.mapping.kinds import shipped_kinds
from loftr2flax.mapping.parse import words

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MANUAL = (ROOT / "mappings" / "README.md").read_text("utf-8")


def commands() -> Iterator[tuple[str, object]]:
    """Every verb, as it is typed, with its command."""
    waiting = [("", typer.main.get_command(build_app()))]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            waiting += [(f"{name} {verb}".strip(), one) for verb, one in inner.items()]


COMMANDS = dict(commands())


def test_the_verbs_are_all_there() -> None:
    assert {
        "inspect", "convert", "verify weights", "demo",
        "mapping list", "mapping show", "mapping check", "mapping explain",
    } <= COMMANDS.keys()  # fmt: skip


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_is_in_the_readme_and_has_help(verb: str) -> None:
    group, _, last = verb.partition(" ")
    assert re.search(rf"`{verb}\b", README) or re.search(rf"`{group} [^`]*\b{last}\b[^`]*`", README), verb
    assert COMMANDS[verb].help, "its docstring is its help"  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_has_help_and_json_is_there(verb: str) -> None:
    parameters = COMMANDS[verb].params  # type: ignore[attr-defined]
    for parameter in parameters:
        assert getattr(parameter, "help", None), f"{verb} {parameter.name}"
    assert any("--json" in parameter.opts for parameter in parameters)


@pytest.mark.parametrize("word", list(words()))
def test_a_heading_or_kind_is_in_the_manual(word: str) -> None:
    assert f"`{word}`" in MANUAL


def test_the_shipped_mappings_and_kinds_are_in_the_manual() -> None:
    for path in (ROOT / "mappings").glob("*.yaml"):
        assert f"`{path.name}`" in MANUAL
    assert len(shipped_kinds()) >= 7


@pytest.mark.parametrize("code", range(6))
def test_the_exit_codes_are_in_the_readme(code: int) -> None:
    assert f"**{code}** " in README


def test_the_public_names_are_about_a_dozen_and_documented() -> None:
    assert len(loftr2flax.__all__) <= 16
    for name in loftr2flax.__all__:
        assert name == "__version__" or getattr(loftr2flax, name).__doc__, name
        assert name in dir(loftr2flax)
    with pytest.raises(AttributeError, match="convert_checkpiont"):
        loftr2flax.convert_checkpiont  # noqa: B018


@pytest.mark.parametrize("page", ["README.md", "mappings/README.md", "docs/ci.md", "docs/reference.md"])
def test_links_lead_to_files_that_are_there(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text("utf-8")):
        assert target.startswith(("http", "mailto")) or (path.parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "mappings/README.md", "docs/ci.md"])
def test_commands_that_the_pages_show_have_such_options(page: str) -> None:
    shown = re.findall(r"loftr2flax ((?:[a-z]+ ?){1,2})([^`\n#|]*)", (ROOT / page).read_text("utf-8"))
    checked = 0
    for verbs, rest in shown:
        verb = next((v for v in COMMANDS if f"{verbs} ".startswith(f"{v} ")), None)
        if verb is None:
            continue
        options = {o for parameter in COMMANDS[verb].params for o in parameter.opts}  # type: ignore[attr-defined]
        asked = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest))
        assert asked <= options, f"{verb}: {asked - options}"
        checked += 1
    assert checked >= 1

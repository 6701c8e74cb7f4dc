"""The pages that are made from the program: what they say, and that a stale one is seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from schemas import FOLDER

from tools.__main__ import PAGES, main, stale
from tools.reference import reference, verbs

VERBS = dict(verbs())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty place for the pages."""
    (tmp_path / "docs" / "schemas").mkdir(parents=True)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_is_in_the_reference(verb: str) -> None:
    text = reference()
    section = text.partition(f"\n## {verb}\n")[2].partition("\n## ")[0]
    assert VERBS[verb].help in section
    for parameter in VERBS[verb].params:
        assert all(option in section for option in parameter.opts if option.startswith("-")), parameter.name
        assert parameter.help.replace("|", "\\|") in section
    assert f"(schemas/loftr2flax.{verb.replace(' ', '.')}.1.json)" in section


def test_every_schema_is_in_the_reference() -> None:
    for path in FOLDER.glob("loftr2flax.*.json"):
        assert f"](schemas/{path.name})" in reference()


def test_stale_pages_are_seen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], root) == 1
    assert set(stale(root)) == set(PAGES)
    assert capsys.readouterr().err.count(": stale; `python -m tools` writes it\n") == len(PAGES)
    assert main([], root) == 0
    assert main(["--check"], root) == 0
    page = root / "docs" / "reference.md"
    page.write_text(page.read_text("utf-8").replace("--dry-run", "--dry"), "utf-8")
    assert stale(root) == ["docs/reference.md"]


def test_usage(root: Path) -> None:
    assert main(["--chekc"], root) == 2

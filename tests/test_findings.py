"""Findings as GitHub's workflow commands, as Markdown and as JUnit's XML: any name comes through, none does harm."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import parity_reports
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from program import Outcome

from loftr2flax import convert_checkpoint
from loftr2flax.compare.diff import diff_checkpoints
from loftr2flax.escaping import name_of, printable
from loftr2flax.findings import Finding, Findings, github, junit, of_diff, of_parity
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]
HOSTILE = [
    "::error::pwned", "a\n::error::pwned", "a\r\nb", "##[error]pwned", "a,title=b", "a%0Ab", "a:b::c", "]]>", "$x$", "",
    "<b>&amp;", "a|b", "`x`", "*b*", "[l](http://a)", "@somebody", "www.evil.example", "\x00\x08\x1b[2J", "\ud800", " ",
    "\ufffe", "\u202e", "\U0001f600",
]  # fmt: skip
names = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=()), max_size=60))
findings = st.builds(
    Finding, names, names, st.sampled_from(["passed", "failed", "skipped", "error"]), names, names, st.floats()
)
collections = st.builds(
    Findings,
    st.sampled_from(["diff", "verify weights"]),
    names,
    names,
    st.booleans(),
    st.lists(findings, max_size=14).map(tuple),
)


def log_commands(log: str) -> list[tuple[str, dict[str, str], str]]:
    """The commands that GitHub's runner takes from a log: (command, properties, message), all unescaped.

    It looks at each line by itself, whatever blanks it begins with.
    """
    found = []
    for line in log.splitlines():
        if line.lstrip().startswith("::"):
            head, _, message = line.lstrip()[2:].partition("::")
            command, _, rest = head.partition(" ")
            pairs = [pair.partition("=") for pair in rest.split(",") if pair]
            found.append((command, {key: _read(value) for key, _, value in pairs}, _read(message)))
        else:
            assert "##[" not in line, "an older form of command, taken anywhere in a line"
    return found


def _read(text: str) -> str:
    for escaped, sign in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(escaped, sign)
    return text


@settings(max_examples=100)
@given(collections)
def test_any_name_comes_through_github(found: Findings) -> None:
    *errors, answer = log_commands("\n".join(github.commands(found)))
    worst = found.worst[:10]
    assert [command for command, _, _ in errors] == ["error"] * len(worst)
    assert [set(given) for _, given, _ in errors] == [{"title"}] * len(worst)
    assert [given["title"] for _, given, _ in errors] == [name_of(f"{found.verb}: {item.name}") for item in worst]
    assert [message for _, _, message in errors] == [name_of(item.message or item.cause) for item in worst]
    assert answer[0] == "notice"
    assert answer[2].startswith(name_of(f"{found.subject}: {found.answer}"))
    more = sum(item.state in ("failed", "error") for item in found.items) - 10
    assert (f"{more} more" in answer[2].removeprefix(name_of(f"{found.subject}: {found.answer}"))) is (more > 0)


@settings(max_examples=100)
@given(collections)
def test_any_name_comes_through_markdown(found: Findings) -> None:
    text = github.summary(found)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h3"]
    cells = [_content(inline) for before, inline in pairwise(tokens) if before.type == "td_open"]
    wanted = [cell for item in found.worst for cell in (item.group, item.name, item.cause, item.message)]
    assert cells == [name_of(cell).strip() for cell in wanted]
    assert len(text.splitlines()) == text.count("\n"), "no line is forged by another sign for a new line"


def _content(inline: object) -> str:
    assert {child.type for child in inline.children} <= {"text", "text_special"}  # type: ignore[attr-defined]
    return "".join(child.content for child in inline.children)  # type: ignore[attr-defined]


def test_a_long_name_is_cut_in_the_middle_and_many_are_counted() -> None:
    items = [Finding("a" * 500 + "-" + "b" * 500, "g", "failed", message=str(n)) for n in range(60)]
    text = github.summary(Findings("diff", "s", "no", False, tuple(items)))
    assert text.count("| g | " + "a" * 200 + "…" + "b" * 200 + " |") == 50
    assert "and 10 more" in text
    assert text.startswith("### ✗ loftr2flax diff\n")


STRUCTURE = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped"}, {"testcase", "system-out"}),
    "testcase": ({"classname", "name"}, {"failure", "error", "skipped"}),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}
"""Which attributes an element has, and which elements stand in it; what JUnit's readers agree on."""


def read_junit(text: str) -> ElementTree.Element:
    """The document, which is built as it must be and whose counts are true."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, inner = STRUCTURE[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= inner
        if element.tag.startswith("testsuite"):
            for count, path in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
                assert int(element.attrib[count]) == len(element.findall(f".//{path}"))
    return root


@settings(max_examples=100)
@given(collections)
def test_any_name_comes_through_junit(found: Findings) -> None:
    text = junit.document(found)
    assert text.isascii()
    root = read_junit(text)
    cases = root.findall(".//testcase")
    wanted = [item for items in found.groups.values() for item in items]
    assert [(c.attrib["classname"], c.attrib["name"]) for c in cases] == [
        (name_of(item.group), name_of(item.name)) for item in wanted
    ]
    for case, item in zip(cases, wanted, strict=True):
        tags = {"passed": [], "failed": ["failure"], "error": ["error"], "skipped": ["skipped"]}[item.state]
        assert [child.tag for child in case] == tags
        assert [child.attrib["message"] for child in case] == [name_of(item.message)] * len(tags)


def test_that_a_wrong_count_is_seen() -> None:
    text = junit.document(Findings("diff", "s", "no", False, (Finding("a", "g", "failed", "changed", "m"),)))
    read_junit(text)
    with pytest.raises(AssertionError):
        read_junit(text.replace('failures="1"', 'failures="0"', 1))
    with pytest.raises(AssertionError):
        read_junit(text.replace("classname", "klass"))


@given(names)
def test_no_text_is_a_command_of_the_log(text: str) -> None:
    assert log_commands(printable(text)) == []


def test_the_worst_come_first() -> None:
    items = [Finding(str(n), "g", "failed", badness=n) for n in (1.0, 3.0, math.nan, 2.0)] + [
        Finding("lost", "g", "error"), Finding("good", "g", "passed"),
    ]  # fmt: skip
    assert [item.name for item in Findings("diff", "s", "no", False, tuple(items)).worst] == [
        "nan", "lost", "3.0", "2.0", "1.0",
    ]  # fmt: skip


class TestParity:
    def test_a_pass(self) -> None:
        found = of_parity(parity_reports.passing())
        assert (found.passed, found.worst) == (True, ())
        assert found.answer == "both networks compute the same function"
        assert list(found.groups) == [
            "weights", "96×136", "240×320, masks", "96×136 with 120×160", "gradients", "coverage",
        ]  # fmt: skip
        stages = {item.name for item in found.groups["240×320, masks"]}
        assert stages == set(parity_reports.STAGES)
        read_junit(junit.document(found))

    def test_a_failure(self) -> None:
        found = of_parity(parity_reports.failing())
        assert not found.passed
        assert found.answer == (
            "the networks do not compute the same; culprit: loftr_coarse/layers.3: q_proj/kernel is transposed"
        )
        assert [item.name for item in found.worst[:2]] == [
            "params/loftr_coarse/layers_3/q_proj/kernel", "matches",
        ]  # fmt: skip
        worst = next(item for item in found.worst if item.group == "96×136" and item.cause == "own error")
        assert worst.name == "loftr_coarse/layers.3"
        assert "is above 2" in worst.message
        assert "at [0, 12, 5, 7] " in worst.message

    def test_hostile_texts(self) -> None:
        found = of_parity(parity_reports.hostile())
        absent = next(item for item in found.items if item.name == "absent")
        assert (absent.state, absent.cause) == ("failed", "absent")
        assert len(log_commands("\n".join(github.commands(found)))) == min(10, len(found.worst)) + 1
        read_junit(junit.document(found))

    def test_nothing_compared_is_no_pass(self) -> None:
        found = of_parity(parity_reports.report(()))
        assert (found.passed, found.worst[0].state, found.answer) == (False, "error", "nothing was compared")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``a.ckpt``, its conversion ``a.npz``, and ``b.npz``, where two leaves are changed and one has a hostile name."""
    write_sample(tmp_path / "a.ckpt", sizes=SampleSizes(coarse_width=12, coarse_layers=2, fine_layers=1))
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr")
    with np.load(tmp_path / "a.npz") as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    leaves["params/loftr_coarse/layers_0/merge/kernel"][2, 3] += 1
    leaves["params/loftr_fine/layers_0/merge/kernel"][2, 3] += 1e-4
    leaves["::error::pwned"] = np.zeros((2, 3), np.float32)
    np.savez(tmp_path / "b.npz", **leaves)
    return tmp_path


def test_a_diff(folder: Path) -> None:
    found = of_diff(diff_checkpoints(folder / "a.npz", folder / "b.npz"))
    assert [(item.name, item.cause) for item in found.worst] == [
        ("::error::pwned", "added"),
        ("params/loftr_coarse/layers_0/merge/kernel", "changed"),
        ("params/loftr_fine/layers_0/merge/kernel", "changed"),
    ]
    assert found.count("passed") == 122
    through = of_diff(diff_checkpoints(folder / "a.ckpt", folder / "a.npz"))
    assert (through.count("passed"), through.count("skipped"), through.passed) == (124, 17, True)


class TestProgram:
    @pytest.mark.parametrize(
        ("command", "code", "errors"),
        [
            ("diff a.npz b.npz", 1, 3),
            ("diff a.npz a.npz", 0, 0),
            ("diff a.ckpt a.npz", 0, 0),
            ("diff a.npz b.npz --only nothing", 5, 1),
            ("diff a.npz nofile.npz", 3, 1),
            ("diff a.npz b.npz --tolerance many", 2, 1),
            ("verify weights a.ckpt b.npz -m loftr", 1, 3),
            ("verify weights a.ckpt a.npz", 0, 0),
            ("verify weights nofile.ckpt a.npz", 3, 1),
            ("verify parity nofile.ckpt a.npz", 3, 1),
        ],
    )
    def test_a_form(
        self, call: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int, errors: int
    ) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
        (folder / "summary.md").write_text("before\n")
        done = call(*command.split(), "--format", "github")
        assert done.code == code, done.err
        assert [given[0] for given in log_commands(done.out + done.err)] == ["error"] * errors + ["notice"]
        assert (folder / "summary.md").read_text("utf-8").startswith("before\n### ")
        done = call(*command.split(), "--format=junit")
        assert done.code == code, done.err
        root = read_junit(done.out)
        assert int(root.attrib["failures"]) + int(root.attrib["errors"]) == errors
        assert not log_commands(done.out + done.err)

    def test_without_a_summary(self, call: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        before = sorted(folder.iterdir())
        assert call("diff", "a.npz", "b.npz", "--format", "github").code == 1
        assert sorted(folder.iterdir()) == before

    def test_a_summary_that_cannot_be_written(self, call: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "none" / "summary.md"))
        done = call("diff", "a.npz", "a.npz", "--format", "github")
        assert done.code == 4
        assert "$GITHUB_STEP_SUMMARY" in done.error

    def test_one_form_at_a_time(self, call: Run, folder: Path) -> None:
        for verb in (["diff", "a.npz", "b.npz"], ["verify", "weights", "a.ckpt", "a.npz"]):
            done = call(*verb, "--json", "--format", "junit")
            assert (done.code, done.error) == (2, "--json and --format junit ask for two forms")
            assert done.json["exit_code"] == 2

    def test_the_format_of_a_file_is_another_thing(self, call: Run, folder: Path) -> None:
        done = call("convert", "a.ckpt", "-o", "c.npz", "--format", "junit")
        assert (done.code, done.out) == (2, "")

    @pytest.mark.parametrize(
        "command", ["inspect b.npz --flat", "diff a.npz b.npz", "verify weights a.ckpt b.npz -m loftr"]
    )
    def test_pages_for_people_give_github_no_command(self, call: Run, folder: Path, command: str) -> None:
        done = call(*command.split())
        assert log_commands(done.out + done.err) == []
        assert "\\x3a:error::pwned" in done.out

"""Findings for GitHub Actions: workflow commands for the log, and Markdown for the job's summary.

A workflow command is a line ``::error title=…::message``; % CR LF are escaped in both, : and , in properties too
(docs.github.com, "Workflow commands for GitHub Actions"). GitHub shows ten annotations of a kind for each step.
"""

from __future__ import annotations

import re

from loftr2flax.escaping import name_of
from loftr2flax.findings.values import Finding, Findings

MOST_ANNOTATIONS = 10
MOST_ROWS = 50
_LONGEST = 400
_PUNCTUATION = re.compile(r"([!#$&()*+.:<=>@\[\\\]_`{|}~-])")
"""What Markdown, GitHub's own additions to it (mentions, formulas, bare links) and tables read as more than a sign."""


def commands(found: Findings) -> list[str]:
    """The worst ten as errors, and the answer as a notice, a line each."""
    worst = [
        _command("error", f"{found.verb}: {item.name}", item.message or item.cause)
        for item in found.worst[:MOST_ANNOTATIONS]
    ]
    more = len(found.worst) - len(worst)
    answer = f"{found.answer}; {more:,} more are not shown" if more > 0 else found.answer
    return [*worst, _command("notice", f"loftr2flax {found.verb}", f"{found.subject}: {answer}")]


def summary(found: Findings) -> str:
    """A section of Markdown, to be appended to the file that $GITHUB_STEP_SUMMARY names."""
    sign = "✓" if found.passed else "✗"
    lines = [f"### {sign} loftr2flax {found.verb}", "", f"{_plain(found.subject)}: {_plain(found.answer)}", ""]
    shown = found.worst[:MOST_ROWS]
    if shown:
        lines += ["| | | cause | what is wrong |", "|---|---|---|---|", *map(_row, shown), ""]
    if len(found.worst) > len(shown):
        lines += [f"and {len(found.worst) - len(shown):,} more", ""]
    counted = [f"{found.count(state):,} {state}" for state in ("passed", "failed", "error", "skipped")]
    return "\n".join([*lines, ", ".join(word for word in counted if not word.startswith("0 ")), "", ""])


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(name_of(title))}::{_data(name_of(message))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _row(item: Finding) -> str:
    return f"| {' | '.join(map(_plain, (item.group, item.name, item.cause, item.message)))} |"


def _plain(text: str) -> str:
    """The text and nothing but the text: every sign that Markdown could read is escaped, and no cell is endless."""
    shown = name_of(text)
    if len(shown) > _LONGEST:
        shown = f"{shown[: _LONGEST // 2]}…{shown[-_LONGEST // 2 :]}"
    return _PUNCTUATION.sub(r"\\\1", shown)

"""Findings as JUnit's XML, which nearly every CI system reads: one test suite a group, one test case a finding.

XML 1.0 has no way to write most control characters; they appear escaped as Python escapes them. The document is ASCII.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from loftr2flax.escaping import name_of
from loftr2flax.findings.values import Finding, Findings

_OUTCOMES = {"failed": "failure", "error": "error", "skipped": "skipped"}


def document(found: Findings) -> str:
    """The document, with its declaration."""
    root = _counted("testsuites", f"loftr2flax {found.verb}", found.items)
    root.set("time", f"{found.seconds:.3f}")
    for group, items in found.groups.items():
        suite = _counted("testsuite", group, items)
        suite.set("skipped", str(sum(item.state == "skipped" for item in items)))
        suite.extend(map(_case, items))
        root.append(suite)
    if len(root):
        about = ElementTree.SubElement(root[-1], "system-out")
        about.text = name_of(f"{found.subject}: {found.answer}")
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, "us-ascii", xml_declaration=True)
    return text.decode("ascii")


def _counted(tag: str, name: str, items: Sequence[Finding]) -> ElementTree.Element:
    counts = {"tests": len(items)}
    counts |= {word: sum(item.state == state for item in items) for word, state in _COUNTED.items()}
    return ElementTree.Element(tag, {"name": name_of(name), **{word: str(count) for word, count in counts.items()}})


_COUNTED = {"failures": "failed", "errors": "error"}


def _case(item: Finding) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": name_of(item.group), "name": name_of(item.name)})
    if item.state in _OUTCOMES:
        outcome = ElementTree.SubElement(case, _OUTCOMES[item.state], {"message": name_of(item.message)})
        if item.state != "skipped":
            outcome.set("type", name_of(item.cause))
            outcome.text = name_of(item.message)
    return case

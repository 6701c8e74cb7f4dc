"""No fault can be raised that no test raises: the sites in the source against those that the tables reach."""

import ast
import sys
import traceback
from pathlib import Path

import pytest
from fault_table import MAPPINGS, MISMATCHES, refuse
from refusals import REFUSALS

import loftr2flax
from loftr2flax.mapping.names import NameSyntaxError
from loftr2flax.mapping.nodes import Faults
from loftr2flax.plan.problems import Problem

_PACKAGE = Path(loftr2flax.__file__).parent
_FILES = sorted((_PACKAGE / "mapping").glob("*.py")) + sorted((_PACKAGE / "plan").glob("*.py"))
_UNREACHABLE = {"AssertionError"}


def _sites() -> dict[str, range]:
    """Where a fault is added, a problem made or an error raised: "mapping/check.py:40" -> its lines."""
    sites = {}
    for path in _FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if _is_site(node):
                sites[f"{path.parent.name}/{path.name}:{node.lineno}"] = range(node.lineno, node.end_lineno + 1)
    return sites


def _is_site(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise):
        call = node.exc
        return isinstance(call, ast.Call) and ast.unparse(call.func) not in _UNREACHABLE
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        return called.endswith("faults.add") or called == "Problem"
    return False


@pytest.fixture
def reached(monkeypatch):
    """The lines that added a fault or raised, as they are met."""
    met: set[tuple[str, int]] = set()

    def recording(original):
        def call(*args, **kwargs):
            frame = sys._getframe(1)
            met.add((frame.f_code.co_filename, frame.f_lineno))
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(Faults, "add", recording(Faults.add))
    monkeypatch.setattr(NameSyntaxError, "__init__", recording(NameSyntaxError.__init__))
    monkeypatch.setattr(Problem, "__new__", recording(Problem.__new__))
    return met


def _idle(reached, rows, acts) -> list[str]:
    """The sites that neither these rows nor these acts reach."""
    reached.clear()
    errors = [refuse(row) for row in rows]
    for act in acts:
        try:
            act()
        except Exception as error:
            errors.append(error)
    lines = {(str(path), line) for path, line in reached}
    for error in errors:
        lines |= {(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)}
    return [
        site
        for site, span in _sites().items()
        if not any((str(_PACKAGE / site.rpartition(":")[0]), line) in lines for line in span)
    ]


def test_every_site_is_reached_by_a_fixture(reached):
    assert len(_sites()) > 90, "the scan finds the sites"
    assert _idle(reached, [*MAPPINGS, *MISMATCHES], [act for act, *_ in REFUSALS.values()]) == []


def test_the_test_above_can_fail(reached):
    acts = [act for act, *_ in REFUSALS.values()]
    without = [row for row in (*MAPPINGS, *MISMATCHES) if row.path.stem != "below_zero"]
    assert [site.rpartition(":")[0] for site in _idle(reached, without, acts)] == ["mapping/check.py"]

"""Every fault has a fixture named by it, and its message is pinned with file, line and column."""

import re

import pytest
from fault_table import FIXTURES, MAPPINGS, MISMATCHES, refuse

_PLACE = re.compile(r"(?P<file>\w+\.yaml):[1-9][0-9]*:[1-9][0-9]*: ")


@pytest.mark.parametrize("row", [*MAPPINGS, *MISMATCHES], ids=lambda row: row.path.stem)
def test_fixture_is_refused_with_just_these_faults(row):
    error = refuse(row)
    assert [str(fault) for fault in error.faults] == list(row.faults)
    assert error.exit_code == 3
    assert error.hint
    first, *lines = error.message.splitlines()
    assert lines == [f"  {fault}" for fault in row.faults], "the message shows the whole table"
    assert first.endswith("one fault" if len(lines) == 1 else f"{len(lines)} faults")


@pytest.mark.parametrize("row", [*MAPPINGS, *MISMATCHES], ids=lambda row: row.path.stem)
def test_each_fault_has_its_place(row):
    for fault in row.faults:
        found = _PLACE.match(fault)
        assert found, fault
        assert found["file"] == row.path.name


def test_tables_and_fixtures_are_the_same_set():
    for folder, rows in (("mappings", MAPPINGS), ("mismatches", MISMATCHES)):
        assert sorted(row.path.stem for row in rows) == sorted(p.stem for p in (FIXTURES / folder).glob("*.yaml"))


def test_faults_of_a_file_are_collected():
    (row,) = [row for row in MAPPINGS if row.path.stem == "five_faults"]
    assert len(row.faults) >= 5
    (row,) = [row for row in MISMATCHES if row.path.stem == "five_things_wrong"]
    assert len(row.faults) == 5

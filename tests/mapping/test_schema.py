"""The JSON Schema of mapping files: it lets every sound file in, and sees the faults that a schema can see."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from program import Outcome
from test_properties import broken

from loftr2flax.errors import MappingError
from loftr2flax.mapping import mappings_folder, parse_mapping, shipped_names
from loftr2flax.mapping.parse import HEADINGS, words
from loftr2flax.mapping.schema import ABOUT, mapping_schema

Run = Callable[..., Outcome]
FIXTURES = Path(__file__).parents[1] / "fixtures"
SCHEMA = mapping_schema()
JUDGE = Draft202012Validator(SCHEMA)
MANUAL = (mappings_folder() / "README.md").read_text("utf-8")


class _Loader(yaml.CSafeLoader):
    """YAML as editors read it: without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if not tag.endswith("timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def seen(text: str | bytes) -> list[str]:
    """What the schema says against a file."""
    return [fault.json_path for fault in JUDGE.iter_errors(_named(yaml.load(text, _Loader)))]


def _named(value: Any) -> Any:
    """The value with all names as text: a line may begin with a number."""
    if isinstance(value, dict):
        return {str(name): _named(inner) for name, inner in value.items()}
    return [_named(inner) for inner in value] if isinstance(value, list) else value


def test_it_is_a_schema_and_simple_enough_for_editors() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for pattern in re.findall(r'"pattern": "(.*)"', json.dumps(SCHEMA, indent=1)):
        assert "(?P" not in pattern
        assert "(?<" not in pattern


@pytest.mark.parametrize("word", list(words()))
def test_every_word_is_told(word: str) -> None:
    told = {**SCHEMA["properties"], **SCHEMA["else"]["properties"], **SCHEMA["then"]["properties"]}
    assert told[word]["description"]


def test_nothing_else_is_told() -> None:
    assert set(ABOUT) == {*HEADINGS, "at", "aliases", "tree"}


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_mappings_are_let_in(name: str) -> None:
    assert seen((mappings_folder() / f"{name}.yaml").read_text("utf-8")) == []


@pytest.mark.parametrize("path", sorted((FIXTURES / "mismatches").glob("*.yaml")), ids=lambda path: path.stem)
def test_sound_fixtures_are_let_in(path: Path) -> None:
    assert seen(path.read_text("utf-8")) == []


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", MANUAL, re.DOTALL))
def test_the_manual_is_let_in(text: str) -> None:
    assert seen(text if text.startswith("mapping:") else f"mapping: part/1\n{text}") == []


@pytest.mark.parametrize(
    "text",
    [
        "dense: {'': head}",
        "dense: {'fc?': ''}",
        "dense: {0: 1}",
        "dense:",
        "source:",
        "source: {at: }",
        "let: {h: '8', k: {query: 8, 1: 2}}",
        "index: {i: 3.., j: 0..7, k: [0, x, yes]}",
        "tied: {j: 0..1}",
        "drop: {'n []': , 'm []': 0, 'k': {value: 1, dtype: int32}, 'x []': -.inf}",
        "fill: {'batch_stats:a/m [c]': 1.5}",
        "tensors: {'a.{2*j+k}.w? [(h d) -c ... 1]': 'batch_stats:a/{k} [1 ... -c h d (1)]', 'a.{ i - 1 }': 'b'}",
        "facts: {a: [1, {b: null}], c: true}",
        "optional: {a: , b: {dense: {x: y}}}",
        "kinds: {m: {'.a.b? [c]': 'batch_stats:/a/b [c]', '.n []': drop, '.m []': drop 1e3, '.k []': drop true}}",
        "kinds:\n  mine: {'.a []': '/a []'}\noptional: {a: {mine: {a: b}}}",
    ],
)
def test_odd_but_sound_lines_are_let_in(text: str) -> None:
    assert seen(f"mapping: odd/1\n{text}\n") == []


@settings(max_examples=300, derandomize=True)
@given(broken())
def test_what_the_parser_takes_is_let_in(text: str) -> None:
    try:
        parse_mapping(text.encode(), Path("text.yaml"), known=True)
    except (MappingError, UnicodeEncodeError):
        return
    if not re.search("!|<<", text):  # tags and merges, which the parser does not look at and YAML does
        assert seen(text) == []


UNSEEN = {
    "between lines": """
        alias_hides_a_line alias_leads_to_alias alternatives_alike axis_on_flax_side_only
        axis_on_one_side batch_stats_in_params below_zero claimed_and_dropped claimed_twice_by_itself
        counting_with_words drop_of_unknown_size ellipsis_on_one_side fill_of_unknown_number
        fill_of_unknown_size group_twice index_and_axis index_declared_twice index_on_one_side
        index_on_torch_side_only index_unused leaf_claimed_twice no_lines
        ragged_axis_not_led_by_its_index ragged_table_fits_no_index ragged_table_fits_two_indices
        size_is_an_index size_unused tensor_claimed_twice too_many_names too_many_names_in_all two_open_indices_in_a_sum
        two_open_indices_side_by_side undeclared_index undeclared_index_far
    """,
    "within a word": """
        axes_twice_the_same drop_of_unknown_shape fact_is_a_date fact_is_not_finite
        fill_value_out_of_range float_read_as_text index_range_empty index_range_too_long
        name_hole_repeats_an_index
    """,
    "of YAML itself": """
        binary_garbage control_character duplicate_heading duplicate_key duplicate_key_in_facts
        fact_with_a_wrong_tag nested_too_deep not_utf8 not_yaml tab unquoted_brace yaml_alias
        yaml_anchor
    """,
}
"""The faults that a schema does not see, by the reason; every other one it does."""


@pytest.mark.parametrize("path", sorted((FIXTURES / "mappings").glob("*.yaml")), ids=lambda path: path.stem)
def test_faults_that_a_schema_sees(path: Path) -> None:
    unseen = {name: reason for reason, names in UNSEEN.items() for name in names.split()}
    if unseen.get(path.stem) == "of YAML itself":
        return
    assert bool(seen(path.read_bytes())) is (path.stem not in unseen)


def test_a_fault_is_placed() -> None:
    assert seen("mapping: a/1\ndense:\n  layers..fc: fc\n") == ["$.dense"]
    assert seen("mapping: a/1\nindex: {i: 0-7}\n") == ["$.index.i"]


def test_the_verb_prints_it(call: Run) -> None:
    done = call("mapping", "schema")
    assert json.loads(done.out) == SCHEMA
    assert done.out.isascii()
    assert call("mapping", "schema", "--json").json == {"schema": "loftr2flax.mapping.schema/1", "json_schema": SCHEMA}

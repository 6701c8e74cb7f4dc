"""What every verb prints with --json is what its published schema says, no field more and none less."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer.main
from jsonschema import Draft202012Validator
from program import Outcome
from schemas import FOLDER, SCHEMAS, validated

from loftr2flax import convert_checkpoint
from loftr2flax.cli.app import build_app
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``a.ckpt``, its conversion ``a.npz``, ``b.npz`` with NaN and infinities, and a mapping that is none."""
    write_sample(tmp_path / "a.ckpt", sizes=SampleSizes(coarse_width=12, coarse_layers=2, fine_layers=1))
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr")
    with np.load(tmp_path / "a.npz") as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    next(iter(leaves.values())).flat[3] = np.nan
    leaves["params/loftr_coarse/layers_0/merge/kernel"][:] = np.inf
    np.savez(tmp_path / "b.npz", **leaves)
    (tmp_path / "bad.yaml").write_text("mapping: bad/1\ndens:\n  fc: fc\nindex: {i: 5}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code", "schema"),
    [
        ("inspect a.ckpt a.npz nofile.pt", 3, "inspect"),
        ("inspect a.ckpt b.npz --stats --hash --where", 0, "inspect"),
        ("inspect a.npz --filter *kernel --sort size", 0, "inspect"),
        ("inspect nofile.pt", 3, "error"),
        ("fetch --list", 0, "fetch.list"),
        ("fetch", 2, "error"),
        ("convert a.ckpt -m loftr -o c.msgpack", 0, "convert"),
        ("convert a.ckpt -m loftr --dry-run", 0, "convert"),
        ("convert a.npz --reverse -o c.ckpt", 0, "convert"),
        ("convert a.ckpt -o c.safetensors --max-shard-size 40KB", 0, "convert"),
        ("convert a.ckpt -m bad.yaml -o c.npz", 3, "error"),
        ("convert a.ckpt", 2, "error"),
        ("convert a.ckpt --frce", 2, "error"),
        ("convert a.ckpt -o a.npz", 4, "error"),
        ("verify weights a.ckpt a.npz", 0, "verify.weights"),
        ("verify weights a.ckpt b.npz -m loftr", 1, "verify.weights"),
        ("verify weights nofile.pt a.npz", 3, "error"),
        ("verify parity nofile.pt a.npz", 3, "error"),
        ("diff a.ckpt a.npz", 0, "diff"),
        ("diff a.npz b.npz", 1, "diff"),
        ("diff a.ckpt b.npz --only nothing", 5, "diff"),
        ("diff a.npz nofile.npz", 3, "error"),
        ("mapping list", 0, "mapping.list"),
        ("mapping show loftr", 0, "mapping.show"),
        ("mapping show loftrr", 3, "error"),
        ("mapping check loftr a.ckpt", 0, "mapping.check"),
        ("mapping check loftr bad.yaml", 3, "mapping.check"),
        ("mapping check bad.yaml", 3, "error"),
        ("mapping explain matcher.loftr_coarse.layers.0.merge.weight", 0, "mapping.explain"),
        ("mapping explain matcher.backbone.bn1.num_batches_tracked -m loftr", 0, "mapping.explain"),
        ("mapping explain nothing", 3, "error"),
        ("match no.png no.png -c a.npz", 3, "error"),
        ("demo --folder .", 4, "error"),
    ],
)
def test_a_document(
    call: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int, schema: str
) -> None:
    monkeypatch.setenv("LOFTR2FLAX_CACHE", str(folder / "cache"))
    done = call(*command.split(), "--json")
    assert done.code == code, done.err
    document = validated(done.json)
    assert document["schema"] == f"loftr2flax.{schema}/1"
    if schema == "error":
        assert document["exit_code"] == code
        told, *rest = done.error.split(" … ")  # a line for people loses its middle where it is very long
        assert document["error"].splitlines()[0].startswith(told)
        assert rest or document["error"].splitlines()[0] == told
        assert document["hint"] == done.hint


def test_the_demonstration_and_what_it_runs(run: Run) -> None:
    done = run("demo", "--json")
    assert done.code == 0, done.err
    document = validated(done.json)
    assert (document["returned"], document["lacking"], document["folder"]) == (171, [], None)
    seen = [validated(step["document"])["schema"] for step in document["steps"]]
    assert set(seen) >= {
        f"loftr2flax.{name}/1" for name in ("convert", "error", "inspect", "mapping.explain", "match",
                                            "verify.parity", "verify.weights")
    }  # fmt: skip
    for step in document["steps"]:
        assert step["document"].get("exit_code", step["exit_code"]) == step["exit_code"]
        assert step["command"].startswith("loftr2flax ")


def test_a_file_called_json_asks_for_no_document(call: Run) -> None:
    done = call("inspect", "--", "--json")
    assert (done.code, done.out) == (3, "")


def test_faults_have_their_places(call: Run, folder: Path) -> None:
    document = call("mapping", "check", "bad.yaml", "--json").json
    assert [(fault["file"], fault["line"], fault["column"]) for fault in document["faults"]] == [
        ("bad.yaml", 2, 1),
        ("bad.yaml", 4, 9),
        ("bad.yaml", 4, 12),
    ]
    assert document["faults"][0]["hint"] == "did you mean 'dense'?"


def verbs() -> Iterator[str]:
    """The names that schemas go by, one for each verb."""
    waiting = [((), typer.main.get_command(build_app()))]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            yield ".".join(name)
        else:
            waiting += [((*name, verb), one) for verb, one in inner.items()]


@pytest.mark.parametrize("verb", list(verbs()))
def test_every_verb_has_a_schema(verb: str) -> None:
    assert f"loftr2flax.{verb}/1" in SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_sound_strict_and_told(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    verb, version = name.removeprefix("loftr2flax.").split("/")
    assert (FOLDER / f"loftr2flax.{verb}.{version}.json").is_file()
    assert schema["properties"]["schema"]["const"] == name
    assert schema["$id"] == f"urn:loftr2flax:{verb}:{version}"
    assert not faults_of(schema)


def faults_of(schema: object) -> list[str]:
    """Objects that let unknown fields in, fields that may be absent, and fields that nothing is said of."""
    found: list[str] = []
    if isinstance(schema, list):
        return [fault for item in schema for fault in faults_of(item)]
    if not isinstance(schema, dict):
        return found
    fields = schema.get("properties")
    if isinstance(fields, dict) and not re.fullmatch(r"What it printed .*", schema.get("description", "")):
        found += [] if schema.get("additionalProperties") is False else [f"open: {list(fields)}"]
        found += [] if set(schema.get("required", ())) == set(fields) else [f"may be absent: {list(fields)}"]
        silent = [n for n, field in fields.items() if not field.keys() & {"description", "$ref"}]
        found += [f"untold: {silent}"] if silent else []
    return found + [fault for value in schema.values() for fault in faults_of(value)]


def test_that_the_test_of_schemas_can_fail() -> None:
    assert faults_of({"$defs": {"a": {"properties": {"b": {"type": "string"}}}}}) == [
        "open: ['b']", "may be absent: ['b']", "untold: ['b']",
    ]  # fmt: skip


def test_that_an_unknown_field_is_seen(call: Run) -> None:
    document = call("mapping", "list", "--json").json
    for change in (
        lambda d: d.update(extra=1),
        lambda d: d["mappings"][0].update(extra=1),
        lambda d: d.pop("mappings"),
    ):
        changed = json.loads(json.dumps(document))
        change(changed)
        with pytest.raises(AssertionError, match=re.escape("loftr2flax.mapping.list/1")):
            validated(changed)

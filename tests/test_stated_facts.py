"""Facts that a file's record states go with the numbers, there and back and there again."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import Outcome

from loftr2flax import convert_checkpoint, inspect_checkpoint, open_checkpoint
from loftr2flax.errors import CorruptFile, MappingMismatch
from loftr2flax.parity.source import opened
from tools.sample import write_sample

Run = Callable[..., Outcome]
ODD = {"heads": 2, "attention": "full", "temperature": 0.5, "batch_norm_eps": 1e-3, "temp_bug_fix": True}


def facts(path: Path) -> dict[str, Any]:
    with open_checkpoint(path) as checkpoint:
        return checkpoint.contents.provenance["facts"]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A conversion that states other facts than the mapping does."""
    write_sample(tmp_path / "a.ckpt")
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr", facts=ODD)
    return tmp_path / "a.npz"


@pytest.mark.parametrize("back", ["b.ckpt", "b.safetensors"])
def test_they_come_back_and_go_again(odd: Path, tmp_path: Path, back: str) -> None:
    there = convert_checkpoint(odd, tmp_path / back, reverse=True)
    again = convert_checkpoint(tmp_path / back, tmp_path / "c.msgpack", "loftr")
    assert facts(tmp_path / back) == facts(odd) == facts(tmp_path / "c.msgpack")
    assert facts(odd).items() >= ODD.items()
    assert "heads=2" in there.notes[0]
    assert "a torch network has to be told" in there.notes[0]
    assert f"{tmp_path / back} states attention=full, " in again.notes[0]


def test_one_shipped_mapping_knows_the_facts_of_another(odd: Path, tmp_path: Path) -> None:
    convert_checkpoint(odd, tmp_path / "b.ckpt", reverse=True)
    convert_checkpoint(tmp_path / "b.ckpt", tmp_path / "c.npz", "ifvit_jax")
    assert facts(tmp_path / "c.npz")["heads"] == 2
    assert facts(tmp_path / "c.npz")["model"] != "loftr"


def test_what_the_user_says_comes_first(odd: Path, tmp_path: Path) -> None:
    convert_checkpoint(odd, tmp_path / "b.ckpt", reverse=True, facts={"heads": 4})
    assert facts(tmp_path / "b.ckpt") == facts(odd) | {"heads": 4}


def test_two_networks_are_not_compared_as_one(odd: Path, tmp_path: Path) -> None:
    """The numbers are the same, and the networks are not: the torch side would be given the target's heads."""
    convert_checkpoint(odd, tmp_path / "b.ckpt", reverse=True)
    convert_checkpoint(tmp_path / "b.ckpt", tmp_path / "c.npz", "loftr", facts={"heads": 4})
    two = opened(tmp_path / "b.ckpt", tmp_path / "c.npz", None, {}, None, None)
    with (
        pytest.raises(MappingMismatch, match=r"b\.ckpt states heads=2, and .*c\.npz heads=4: these are two") as caught,
        two,
    ):
        pass
    assert caught.value.hint == "`--fact heads=2` or `--fact heads=4` if one of them is wrong"
    with opened(tmp_path / "b.ckpt", tmp_path / "c.npz", None, {"heads": 4}, None, None) as pair:
        assert pair.facts["heads"] == 4
    with opened(tmp_path / "b.ckpt", odd, None, {}, None, None) as pair:
        assert pair.facts.items() >= ODD.items()


def test_usual_facts_are_no_note(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.ckpt")
    convert_checkpoint(tmp_path / "a.ckpt", tmp_path / "a.npz", "loftr")
    assert convert_checkpoint(tmp_path / "a.npz", tmp_path / "b.ckpt", reverse=True).notes == ()


def test_a_page_says_what_is_stated_and_what_assumed(odd: Path, call: Run, tmp_path: Path) -> None:
    page = call("inspect", odd).out
    assert "stated      attention full" in page
    assert "assumed" not in page
    assert "assumed     attention linear" in call("inspect", tmp_path / "a.ckpt").out


def test_a_record_that_states_what_cannot_be(odd: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(odd, "a") as archive:
        record = json.loads(archive.comment)
        next(iter(record.values()))["facts"]["heads"] = "two"
        archive.comment = json.dumps(record).encode()
    with pytest.raises(CorruptFile, match='states heads="two", which cannot be'):
        convert_checkpoint(odd, tmp_path / "b.ckpt", reverse=True)
    assert inspect_checkpoint(odd).notes[-1] == 'its record states heads="two", which cannot be'


def test_match_runs_the_network_that_a_torch_file_of_ours_states(odd: Path, tmp_path: Path) -> None:
    pytest.importorskip("flax")
    from loftr2flax.matching.weights import load_weights

    convert_checkpoint(odd, tmp_path / "b.ckpt", reverse=True)
    weights = load_weights(tmp_path / "b.ckpt")
    assert {name: getattr(weights.config, name) for name in ODD} == ODD
    assert "heads" not in weights.assumed

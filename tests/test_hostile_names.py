"""Names that would move a cursor, forge a line or command a CI's log: every verb shows them escaped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import torch_state
from program import Outcome

from loftr2flax import convert_checkpoint, inspect_checkpoint, load_mapping, open_checkpoint
from loftr2flax.cli.app import build_app
from loftr2flax.plan import Wishes, build_plan
from tools.sample import SampleSizes, write_sample

Run = Callable[..., Outcome]

NAMES = (
    "\x1b[2J\x1b]0;title\x07.weight",
    "a\nerror: forged\nhint: forged",
    "::error::forged",
    "b\n  ::error file=x,line=1::forged",
    "##[error]forged",
    "\u202eesrever",
    "nul\0byte",
    "\r\u2028\u2029\x85\x0b\x0c",
    "\x9b31m",
    "tab\there",
    "<script>alert(1)</script>",
    "[bold red]markup[/]",
    "%s{0..7}{x}",
    "\U000e0001\u200b\ufeff",
    "deep" + ".x" * 5000,
    "long" * 2500,
    "9" * 5000,
)
NETWORK = "matcher.loftr_coarse.layers.0.::error::forged\n::error::forged\x1b[2J"
"""A name in the scope of the mappings, so that plans speak of it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, files of three formats with hostile names beside its leaves, and one whose path is hostile."""
    here = tmp_path_factory.mktemp("hostile")
    write_sample(here / "good.ckpt", sizes=SampleSizes(coarse_width=12, coarse_layers=2, fine_layers=1))
    convert_checkpoint(here / "good.ckpt", here / "good.npz", "loftr")
    convert_checkpoint(here / "good.ckpt", here / "good.safetensors", "loftr")
    state = torch_state(here / "good.ckpt")
    bad = {name: torch.full((2, 3), float("nan")) for name in (*NAMES, NETWORK)}
    beside = {f"{name}\u202e": {"text": name} for name in NAMES}
    torch.save({"state_dict": {**state, **bad}, **beside}, here / "bad.ckpt")
    torch.save(bad, here / "only.pt", _use_new_zipfile_serialization=False)
    torch.save({**bad, NAMES[0]: torch.zeros(2, 3)}, here / "other.pt")
    np.savez(here / "bad.npz", **{name.replace("\0", ""): np.zeros((2, 3)) for name in NAMES})
    (here / "\x1b[2J\n::error::path.pt").write_bytes((here / "good.ckpt").read_bytes())
    return here


COMMANDS = (
    *(f"inspect {file} {how}" for file in ("bad.ckpt", "only.pt", "bad.npz") for how in (
        "", "--tree", "--depth 2", "--flat", "--stats", "--hash", "--where", "--sort size",
        "--flat --stats --hash --where",
    )),
    "inspect bad.ckpt --filter NAME",
    "inspect bad.ckpt --state-dict NAME",
    "inspect PATH",
    "convert bad.ckpt -o x.npz", "convert bad.ckpt -m loftr -o x.npz", "convert only.pt -o x.npz",
    "convert bad.ckpt -m loftr_coarse --dry-run", "convert PATH -m loftr --dry-run",
    "convert bad.ckpt --prefix NAME -o x.npz", "convert bad.ckpt -m NAME -o x.npz",
    "convert good.ckpt -m loftr --fact NAME=1 -o x.npz", "convert bad.npz --reverse -o x.ckpt",
    "verify weights bad.ckpt good.npz", "verify weights good.ckpt bad.npz", "verify weights PATH good.npz",
    "verify parity bad.ckpt good.npz", "verify parity good.ckpt bad.npz", "verify parity good.ckpt good.npz -m NAME",
    "diff bad.ckpt good.ckpt", "diff bad.ckpt good.npz", "diff only.pt other.pt", "diff only.pt bad.npz",
    "diff bad.ckpt good.ckpt --full", "diff only.pt other.pt --stat", "diff only.pt other.pt --only NAME",
    "diff PATH good.npz", "diff only.pt other.pt --format junit",
    "mapping list", "mapping show NAME", "mapping check NAME", "mapping check loftr bad.ckpt",
    "mapping check loftr PATH", "mapping explain NAME", "mapping schema",
    "match NAME NAME -c good.npz", "match a.png b.png -c bad.npz",
    "train dense NAME", "train match NAME",
    "fetch NAME", "fetch https://127.0.0.1:1/NAME",
    "demo --folder PATH", "NAME", "inspect --NAME",
)  # fmt: skip


def seen(text: str) -> None:
    """Nothing in what a command says has power over who reads it."""
    lines = text.split("\n")
    for line in lines:
        assert all(c.isprintable() or c == "\t" for c in line), ascii(line[:200])
        assert not line.lstrip().startswith("::"), line[:200]
        assert "##[" not in line, line[:200]
        assert not line.startswith(("error: forged", "hint: forged")), line


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_verb_says(call: Run, folder: Path, command: str) -> None:
    place = {"PATH": "\x1b[2J\n::error::path.pt", "NAME": "::error::a\n::error::b\x1b[2J##[error]"}
    words = [word.replace("PATH", place["PATH"]).replace("NAME", place["NAME"]) for word in command.split()]
    words = [str(folder / word) if (folder / word).is_file() else word for word in words]
    done = call(*words)
    assert done.code in (0, 1, 2, 3, 4, 5), done.err
    seen(done.out)
    seen(done.err)
    if done.code > 1 and done.code != 5:
        assert (done.error, done.hint) != ("", ""), "one line each"


@pytest.mark.parametrize(
    "command", ["inspect bad.ckpt", "inspect only.pt --stats", "diff only.pt other.pt", "mapping check loftr bad.ckpt"]
)
def test_what_a_document_says(call: Run, folder: Path, command: str) -> None:
    words = [str(folder / word) if (folder / word).is_file() else word for word in command.split()]
    done = call(*words, "--json")
    seen(done.out)
    assert done.out.isascii()
    if command.startswith("inspect"):
        assert NETWORK in json.loads(done.out)["files"][0]["leaves"]


def test_every_verb_is_run() -> None:
    verbs = {command.name or command.callback.__name__ for command in build_app().registered_commands}
    verbs |= {group.name for group in build_app().registered_groups}
    assert verbs <= {command.split()[0] for command in COMMANDS}


def test_what_a_notebook_shows(folder: Path) -> None:
    shown = inspect_checkpoint(folder / "bad.ckpt")._repr_html_()
    assert "<script>alert" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    with open_checkpoint(folder / "good.ckpt") as checkpoint:
        plan = build_plan(load_mapping("loftr"), checkpoint.infos, "forward", Wishes(), "good.ckpt")
    shown = plan._repr_html_()
    assert shown.count("<tr>") == 1 + len(plan.moves)
    assert "matcher.backbone.conv1.weight</td>" in shown

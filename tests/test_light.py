"""What needs neither torch nor jax loads neither, in a fresh interpreter; and this test can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.sample import write_sample

HEAVY = {
    "torch", "jax", "jaxlib", "flax", "kornia", "optax", "orbax", "tensorflow", "safetensors", "msgpack", "requests",
}  # fmt: skip
"""Packages that the base installation lacks, and whose import would show."""

_MAIN = """
import json, sys
from loftr2flax.cli import main
try:
    main({arguments!r})
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, sorted({{name.split(".")[0] for name in sys.modules}})]), file=sys.stderr)
"""
_IMPORT = """
import json, sys
import loftr2flax
for name in loftr2flax.__all__:
    getattr(loftr2flax, name)
print(json.dumps([0, sorted({name.split(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


def loaded_by(script: str, folder: Path) -> set[str]:
    """The top-level packages in `sys.modules` once the script has run, and has ended well."""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    code, names = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its conversion."""
    from loftr2flax import convert_checkpoint

    place = tmp_path_factory.mktemp("light")
    write_sample(place / "a.ckpt")
    convert_checkpoint(place / "a.ckpt", place / "a.npz", "loftr")
    return place


COMMANDS = [
    "--help",
    "inspect a.ckpt a.npz",
    "convert a.ckpt -m loftr -o b.safetensors --force",
    "convert a.ckpt -m loftr -o b.msgpack --force",
    "convert a.npz --reverse -o b.ckpt --force",
    "verify weights a.ckpt a.npz",
    "verify weights a.ckpt a.npz --format junit",
    "diff a.ckpt a.npz",
    "diff a.ckpt a.npz --format github",
    "mapping check loftr a.ckpt",
    "mapping schema",
    "fetch --list",
    "train dense --show-config",
    "mapping explain matcher.loftr_coarse.layers.0.merge.weight",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_verb_loads_nothing_heavy(folder: Path, command: str) -> None:
    loaded = loaded_by(_MAIN.format(arguments=command.split()), folder)
    assert "numpy" in loaded or command in ("--help", "fetch --list", "train dense --show-config")
    assert not loaded & HEAVY


def test_the_public_names_load_nothing_heavy(folder: Path) -> None:
    loaded = loaded_by(_IMPORT, folder)
    assert {"loftr2flax", "numpy"} <= loaded
    assert not loaded & {*HEAVY, "typer", "rich"}


def test_the_test_can_fail(folder: Path) -> None:
    """A package of a heavy one's name, in the way of the import: what loads it is caught."""
    fake = folder / "fake"
    fake.mkdir()
    (fake / "jax.py").write_text("")
    before = f"import sys; sys.path.insert(0, {str(fake)!r}); import jax\n"
    assert loaded_by(before + _IMPORT, folder) & HEAVY == {"jax"}
    assert loaded_by(before + _MAIN.format(arguments=["--version"]), folder) & HEAVY == {"jax"}

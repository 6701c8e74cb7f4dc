"""Which modules import torch: these and no others. All else of the package works where there is no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "loftr2flax"
TORCH = {"torch", "kornia"}
PINNED = {
    "models.loftr.reference",
    "parity.loftr.changes",
    "parity.loftr.fine_mistakes",
    "parity.loftr.matching_mistakes",
    "parity.loftr.mistakes",
    "parity.loftr.rounding",
    "parity.loftr.suspects",
    "parity.loftr.torch_side",
}
"""The torch side of LoFTR, loaded by `verify parity` without a golden bundle, and by nothing else."""


def importers(package: Path) -> set[str]:
    """Modules of a package that import torch or kornia, at their top or inside a function."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if TORCH & {name.split(".")[0] for name in names}:
                found.add(".".join(path.relative_to(package).with_suffix("").parts))
    return found


def test_torch_is_imported_where_it_is_said_to_be_and_nowhere_else():
    assert importers(PACKAGE) == PINNED


@pytest.mark.parametrize("line", ["import torch", "from torch import nn", "def f():\n    import kornia.feature as k"])
def test_an_import_is_seen_wherever_it_stands(tmp_path, line):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "new.py").write_text(f"import json\n{line}\n")
    (tmp_path / "other.py").write_text("from part import torch_side\n")
    assert importers(tmp_path) == {"part.new"}


def test_all_other_modules_are_imported_without_torch():
    """In a fresh interpreter in which torch cannot be imported."""
    modules = sorted(
        ".".join(("loftr2flax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if path.name != "__main__.py"
    )
    wanted = [name for name in modules if name.removeprefix("loftr2flax.") not in PINNED]
    assert len(wanted) > 100
    without = "import sys, importlib\nsys.modules['torch'] = sys.modules['kornia'] = None\n"
    code = f"{without}for name in {wanted}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

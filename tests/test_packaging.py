"""The wheel holds what the program needs and nothing more, and works from wherever it lies; so does a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree by the build backend that pyproject.toml names."""
    pytest.importorskip("hatchling", reason="the build backend is not installed: pip install hatchling")
    place = tmp_path_factory.mktemp("wheel")
    for name in ("loftr2flax", "mappings"):
        shutil.copytree(ROOT / name, place / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "tree" / "tests" / "fixtures").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "tests/fixtures/loftr_tiny.ckpt"):
        shutil.copy(ROOT / name, place / "tree" / name)
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    words = [sys.executable, "-W", "error", "-c", script, str(place)]
    done = subprocess.run(words, cwd=place / "tree", capture_output=True, text=True, check=True)
    return place / done.stdout.strip().splitlines()[-1]


def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"loftr2flax"}
    assert len(tops) == 2
    shipped = {f"loftr2flax/mappings/{path.name}" for path in (ROOT / "mappings").glob("*.yaml")}
    assert len(shipped) >= 4
    assert shipped <= set(names)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "loftr2flax").rglob("*.py")}
    assert sources | {"loftr2flax/py.typed", "loftr2flax/loftr_tiny.ckpt"} <= set(names)
    assert len(names) == len(set(names))


def test_the_metadata(wheel: Path) -> None:
    from loftr2flax import __version__

    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        (entry,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert f"Version: {__version__}\n" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "loftr2flax = loftr2flax.__main__:program" in entry
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not any(heavy in line for line in base for heavy in ("torch", "jax", "flax", "kornia"))
    extras = {line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Provides-Extra")}
    assert {"parity", "train", "all", "dev"} <= extras


def test_an_unpacked_wheel_works_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    listed(tmp_path, tmp_path / "site")


def test_a_checkout_works_from_anywhere(tmp_path: Path) -> None:
    listed(tmp_path, ROOT)


def listed(folder: Path, where: Path) -> None:
    """Three mappings ship, and they come from ``where``."""
    environment = {**os.environ, "PYTHONPATH": str(where)}
    program = [sys.executable, "-m", "loftr2flax", "mapping"]
    for verb, wanted in ((["list"], ["ifvit_jax", "loftr", "loftr_coarse"]), (["show", "loftr", "--json"], None)):
        done = subprocess.run(
            [*program, *verb], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        if wanted:
            assert [line.split()[0] for line in done.stdout.splitlines()] == wanted
        else:
            assert str(where) in done.stdout

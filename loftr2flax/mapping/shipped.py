"""Where the mapping files that come with the package lie: inside a wheel, or beside an editable checkout."""

from __future__ import annotations

from pathlib import Path

from loftr2flax.errors import MissingInput
from loftr2flax.mapping.nodes import nearest

_NOT_MAPPINGS = {"kinds"}


def mappings_folder() -> Path:
    """The folder ``mappings``.

    Raises:
      MissingInput: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "mappings", package.parent / "mappings"):
        if (folder / "kinds.yaml").is_file():
            return folder
    raise MissingInput(f"{package}: the folder of shipped mappings is missing", "install loftr2flax again")


def shipped_file(name: str) -> Path:
    """The path of one file in that folder."""
    return mappings_folder() / name


def shipped_names() -> tuple[str, ...]:
    """The names of the shipped mappings, sorted."""
    return tuple(sorted(p.stem for p in mappings_folder().glob("*.yaml") if p.stem not in _NOT_MAPPINGS))


def is_shipped(path: Path) -> bool:
    """Whether a mapping file is one of those that come with the package."""
    return path.parent == mappings_folder()


def find_mapping(name_or_path: str) -> Path:
    """The file of a mapping given by its shipped name (``loftr``) or by its path (``my/vit.yaml``).

    Raises:
      MissingInput: there is no such file; the hint names the nearest shipped one.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if path.is_file():
            return path
        raise MissingInput(f"{path}: no such mapping file", "`loftr2flax mapping list` names the shipped ones")
    known = shipped_names()
    if name_or_path in known:
        return shipped_file(f"{name_or_path}.yaml")
    hint = nearest(name_or_path, known) or f"the shipped ones are {', '.join(known)}; a file of your own ends in .yaml"
    raise MissingInput(f"{name_or_path}: no mapping of that name ships with loftr2flax", hint)

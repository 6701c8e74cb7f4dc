"""Pages of which a benchmark writes one part and leaves the rest."""

from __future__ import annotations

from pathlib import Path


def before_heading(page: Path, heading: str, text: str) -> None:
    """Replaces what stands before a heading; what begins with it stays."""
    _, _, rest = _parted(page, heading)
    page.write_text(f"{text.rstrip()}\n\n{heading}{rest}" if rest else text)


def from_heading(page: Path, heading: str, text: str) -> None:
    """Replaces what begins with a heading; what stands before it stays."""
    before, _, _ = _parted(page, heading)
    page.write_text(f"{before.rstrip()}\n\n{heading}\n\n{text.strip()}\n")


def _parted(page: Path, heading: str) -> tuple[str, str, str]:
    return (page.read_text() if page.exists() else "").partition(heading)

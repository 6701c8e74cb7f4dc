"""Which leaves were asked for: `--only` and `--ignore`, shell patterns over names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


class Globs:
    """Patterns as in a shell, where ``*`` reaches over dots and slashes; a leaf goes by all the names it has."""

    def __init__(self, only: Sequence[str], ignore: Sequence[str]) -> None:
        self._only, self._ignore = tuple(only), tuple(ignore)
        self._idle = {("--only", glob) for glob in only} | {("--ignore", glob) for glob in ignore}

    def keep(self, *names: str) -> bool:
        """Whether a leaf with these names takes part."""
        wanted = [self._hits("--only", glob, names) for glob in self._only]  # all of them, to know which are idle
        unwanted = [self._hits("--ignore", glob, names) for glob in self._ignore]
        return (not wanted or any(wanted)) and not any(unwanted)

    @property
    def idle(self) -> list[tuple[str, str]]:
        """Options and patterns that have matched no leaf so far."""
        return sorted(self._idle)

    def _hits(self, option: str, glob: str, names: Sequence[str]) -> bool:
        hit = any(fnmatchcase(name, glob) for name in names)
        if hit:
            self._idle.discard((option, glob))
        return hit

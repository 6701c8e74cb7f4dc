"""One target under atheris, in a process of its own: ``python -m fuzz.one TARGET [libFuzzer options] [folders]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["loftr2flax"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's options say that it is enough; an error that is not a refusal ends it."""
    target = TARGETS[sys.argv[1]]

    def once(data: bytes) -> None:
        target.run(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

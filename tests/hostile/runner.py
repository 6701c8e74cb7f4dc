"""The program, again and again, each time in a fork of this light process, and what each run took.

A line of JSON in, ``{"words": […], "cwd": "…"}``; a line out, with the exit code, what was said, and the run's own peak
of memory and time of CPU. torch and jax are never loaded here, so the peak is the program's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from importlib import import_module
from typing import NoReturn

import loftr2flax.cli

for name in ("compare.diff", "convert", "inspection", "formats.torch_zip", "formats.npz_file", "cli.diff_page"):
    import_module(f"loftr2flax.{name}")  # once, not by each run

_SECONDS = 20  # of CPU, against a run without end; what a fault may take is judged by who asks
_ADDRESSES = 4 << 30  # bytes of address space, against a run that would take the machine


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if not child:
                _become(asked["words"], asked["cwd"], out.fileno(), err.fileno())
            _, status, usage = os.wait4(child, 0)
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode("utf-8", "replace"))
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "out": said[0],
            "err": said[1],
            "peak": usage.ru_maxrss * 1024,
            "seconds": usage.ru_utime + usage.ru_stime,
        }
        print(json.dumps(answer), flush=True)


def _become(words: list[str], cwd: str, out: int, err: int) -> NoReturn:
    os.chdir(cwd)
    os.dup2(out, 1)
    os.dup2(err, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
    code: object = 70
    try:
        loftr2flax.cli.main(words)
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


if __name__ == "__main__":
    main()

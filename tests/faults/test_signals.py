"""A signal at any moment: the old file or the new one, nothing beside it, and the code that a shell expects."""

from __future__ import annotations

import signal
import time
from random import Random

import pytest
from conversion import Conversion

POINTS = 50
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
CODES = {signal.SIGINT: {130}, signal.SIGTERM: {143}, signal.SIGKILL: {-signal.SIGKILL}}
BEFORE_MAIN = {signal.SIGINT: {-signal.SIGINT}, signal.SIGTERM: {-signal.SIGTERM}, signal.SIGKILL: set()}
"""What the system makes of a signal before the program has any say; shells show 130 and 143 for these, too."""

_COUNT = """
import os, sys
import loftr2flax.cli
calls = 0
def count(frame, event, argument):
    global calls
    calls += 1
    if calls == {point}:
        os.kill(os.getpid(), {number})
def ended(code, exit=sys.exit):
    print(calls, file=sys.stderr)
    exit(code)
sys.exit = ended
sys.setprofile(count)
"""
"""Counts what the main thread calls once the program is loaded; at one of these calls the process gets a signal."""


def test_at_50_points_of_the_work(npz: Conversion) -> None:
    """Points are drawn from all calls, of Python and of C, that a conversion makes; a third of them for each signal."""
    program = npz.start(_COUNT.format(point=0, number=0))
    calls = int(program.communicate()[1])
    assert calls > 10_000
    generator = Random(5)
    late = 0
    for number in range(POINTS):
        sent = NUMBERS[number % 3]
        # half of them in the last tenth, where the file gets its name
        point = generator.randrange(1, calls) if number % 2 else calls - generator.randrange(1, calls // 10)
        npz.prepare()
        program = npz.start(_COUNT.format(point=point, number=int(sent)))
        _, err = program.communicate()
        where = f"{sent.name} at call {point} of {calls}: {program.returncode}, {err}"
        late += npz.judge(program.returncode, where)
        assert program.returncode in CODES[sent], where
        assert "Traceback" not in err, where
    assert late < POINTS


@pytest.mark.parametrize("sent", NUMBERS, ids=lambda sent: sent.name)
def test_at_any_time(npz: Conversion, sent: signal.Signals) -> None:
    """By the clock: from the interpreter's first breath to beyond the end."""
    began = time.monotonic()
    npz.start().communicate()
    duration = time.monotonic() - began
    generator = Random(int(sent))
    for _ in range(5):
        npz.prepare()
        program = npz.start()
        time.sleep(generator.uniform(0.0, 1.1 * duration))
        program.send_signal(sent)
        _, err = program.communicate()
        npz.judge(program.returncode, err)
        if "Traceback" in err:  # before the package itself was up
            assert "loftr2flax/cli" not in err
            continue
        assert program.returncode in {0} | CODES[sent] | BEFORE_MAIN[sent], err


def test_ctrl_c_while_modules_load(npz: Conversion) -> None:
    """Before the program has any say, it ends as the system has it: without a traceback."""
    hurry = "import os, signal, sys\nclass Hurry:\n    def find_spec(self, name, *rest):\n        " + (
        "name == 'typer' and os.kill(os.getpid(), signal.SIGINT)\n"
    )
    code = f"{hurry}sys.meta_path.insert(0, Hurry())\nimport loftr2flax.__main__"
    program = npz.start(code)
    _, err = program.communicate()
    assert (program.returncode, err) == (-signal.SIGINT, "")
    assert not npz.judge(program.returncode, err)


def test_an_ignored_ctrl_c_stays_ignored(npz: Conversion) -> None:
    """As a shell starts what runs in the background."""
    program = npz.start(
        "import os, signal\nimport loftr2flax.convert.job as job\nos.kill(os.getpid(), signal.SIGINT)",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    _, err = program.communicate()
    assert program.returncode == 0, err
    assert npz.judge(0, err)

"""``python -m loftr2flax``, and what the console script runs."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends it without a traceback

from loftr2flax.cli import program

if __name__ == "__main__":
    program()

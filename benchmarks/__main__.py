"""``python -m benchmarks [name …]``: all of them, or those named."""

import sys

from benchmarks import conversion

BENCHMARKS = {"conversion": conversion.run}
"""Every benchmark by name."""

for name in sys.argv[1:] or BENCHMARKS:
    BENCHMARKS[name]()

"""``python -m benchmarks [name …]``: all of them, or those named."""

import sys

from benchmarks import conversion, detection, forward

BENCHMARKS = {"conversion": conversion.run, "forward": forward.run, "detection": detection.run}
"""Every benchmark by name."""

for name in sys.argv[1:] or BENCHMARKS:
    BENCHMARKS[name]()

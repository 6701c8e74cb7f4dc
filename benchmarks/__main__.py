"""``python -m benchmarks [name …]``: all of them, or those named."""

import sys

from benchmarks import conversion, detection, differences, forward

BENCHMARKS = {
    "conversion": conversion.run,
    "differences": differences.run,
    "forward": forward.run,
    "detection": detection.run,
}
"""Every benchmark by name."""

for name in sys.argv[1:] or BENCHMARKS:
    BENCHMARKS[name]()

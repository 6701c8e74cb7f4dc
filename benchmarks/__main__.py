"""``python -m benchmarks [name …]``: all of them, or those named."""

import sys

from benchmarks import (
    conversion,
    detection,
    differences,
    false_alarms,
    forward,
    inspection,
    parity,
    parity_matrix,
    scale,
    training_step,
)

BENCHMARKS = {
    "conversion": conversion.run,
    "inspection": inspection.run,
    "differences": differences.run,
    "scale": scale.run,
    "forward": forward.run,
    "parity": parity.run,
    "parity_matrix": parity_matrix.run,
    "detection": detection.run,
    "false_alarms": false_alarms.run,
    "training_step": training_step.run,
}
"""Every benchmark by name."""

for name in sys.argv[1:] or BENCHMARKS:
    BENCHMARKS[name]()

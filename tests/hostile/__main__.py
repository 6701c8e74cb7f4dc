"""``python -m hostile`` in `tests/`: writes `FAULTS.txt` anew, and says what the costliest faults take."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hostile.catalogue import load, write_pins
from hostile.trial import Program, attempt, outcome

_SHOWN = 12


def main() -> None:
    """Run every fault once."""
    pins, costs = {}, []
    with tempfile.TemporaryDirectory() as place:
        program = Program(Path(place))
        for name in load():
            with tempfile.TemporaryDirectory() as folder:
                runs = attempt(program, name, Path(folder)).runs
                path = Path(folder) / f"{name}.ckpt"
                pins[name] = {verb: outcome(run, path) for verb, run in runs.items()}
                costs += [(run.peak - program.baseline[verb], run.seconds, verb, name) for verb, run in runs.items()]
        program.close()
    Path(__file__).with_name("FAULTS.txt").write_text(write_pins(pins), "utf-8")
    print(f"{len(pins)} faults")
    for what, key in (("memory over the baseline", 0), ("time of CPU", 1)):
        print(what)
        for cost in sorted(costs, key=lambda cost: -cost[key])[:_SHOWN]:
            print(f"  {cost[0] / (1 << 20):6.0f} MiB  {cost[1]:5.2f} s  {cost[2]:8} {cost[3]}")


if __name__ == "__main__":
    main()

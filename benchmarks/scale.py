"""Large files: 2 GiB of square matrices against the script that people write and against `cp`, 8 GiB for the memory,
and how the time grows with bytes and with tensors, as numbers and as a plot."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.side_by_side import folder, report, run_in_turn

_MAKE = """
import sys, torch
torch.manual_seed(0)
path, count, *shape = sys.argv[1], *map(int, sys.argv[2:])
torch.save({f"m.{n}.weight": torch.randn(shape) for n in range(count)}, path)
"""

_SCRIPT_NPZ = """
import sys, numpy as np, torch
np.savez(sys.argv[2], **{key: value.numpy().T for key, value in torch.load(sys.argv[1]).items()})
"""

_SCRIPT_SAFETENSORS = """
import sys, numpy as np, torch
from safetensors.numpy import save_file
save_file({key: np.ascontiguousarray(value.numpy().T) for key, value in torch.load(sys.argv[1]).items()}, sys.argv[2])
"""

_MAPPING = """\
mapping: squares/1
index: {n: 0..}
dense:
  m.{n}: m_{n}
"""

_SIDE = 4096  # a matrix of 64 MiB
_RUNS = 5  # of 2 GiB; the figures of three runs lie within a tenth of one another on a quiet machine
_BYTES = tuple(2**power for power in range(27, 32))
_TENSORS = (1_000, 3_162, 10_000, 31_623, 100_000)


def run() -> None:
    """Measures and prints; of the files, up to 16 GiB at a time, only the plot stays."""
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        here = Path(place)
        mapping = here / "squares.yaml"
        mapping.write_text(_MAPPING)
        _against_others(here, mapping)
        _eight(here, mapping)
        _growth(here, mapping)


def _make(path: Path, count: int, *shape: int) -> Path:
    subprocess.run([sys.executable, "-c", _MAKE, str(path), str(count), *map(str, shape)], check=True)
    return path


def _convert(source: Path, output: Path, mapping: Path) -> list[str]:
    program = str(Path(sys.executable).with_name("loftr2flax"))
    return [program, "convert", str(source), "-m", str(mapping), "-o", str(output)]


def _against_others(here: Path, mapping: Path) -> None:
    source = _make(here / "two.pt", 32, _SIDE, _SIDE)
    for ending, script in (("npz", _SCRIPT_NPZ), ("safetensors", _SCRIPT_SAFETENSORS)):
        outputs = [here / f"{name}.{ending}" for name in ("script", "ours", "copy")]
        print(f"2 GiB of float32 matrices {_SIDE}×{_SIDE} (.pt) to .{ending}")
        programs = {
            "script": [sys.executable, "-c", script, str(source), str(outputs[0])],
            "loftr2flax": _convert(source, outputs[1], mapping),
            "cp": ["cp", str(source), str(outputs[2])],
            "cp, to the disk": ["sh", "-c", 'cp "$0" "$1" && sync "$1"', str(source), str(outputs[2])],
        }
        measures = run_in_turn(programs, _RUNS, outputs)
        report(measures, against="script")
        for name in ("cp", "cp, to the disk"):
            print(f"  {measures['loftr2flax'].middle / measures[name].middle:.2f} times the time of {name}")
        for path in outputs:
            path.unlink(missing_ok=True)
    source.unlink()


def _eight(here: Path, mapping: Path) -> None:
    source, output = _make(here / "eight.pt", 128, _SIDE, _SIDE), here / "eight.safetensors"
    print("8 GiB of them to .safetensors")
    report(run_in_turn({"loftr2flax": _convert(source, output, mapping)}, 1, [output]), against="loftr2flax")
    source.unlink()
    output.unlink()


def _growth(here: Path, mapping: Path) -> None:
    bytes_ = [(n, _seconds(_make(here / "in.pt", n // 4 // 2048**2, 2048, 2048), here, mapping)) for n in _BYTES]
    tensors = [(n, _seconds(_make(here / "in.pt", n, 4, 5), here, mapping)) for n in _TENSORS]
    for what, points in (("bytes", bytes_), ("tensors of 4×5", tensors)):
        print(f"seconds by {what}")
        for (n, seconds), former in zip(points, [None, *points], strict=False):
            grown = f"  grows as n^{_exponent(former, (n, seconds)):.2f}" if former else ""
            print(f"  {n:>13,}  {seconds:7.3f} s{grown}")
    _plot(folder() / "scale.png", {"bytes": bytes_, "tensors of 4×5": tensors})


def _seconds(source: Path, here: Path, mapping: Path) -> float:
    output = here / "out.npz"
    return run_in_turn({"ours": _convert(source, output, mapping)}, _RUNS, [output])["ours"].best


def _exponent(one: tuple[int, float], two: tuple[int, float]) -> float:
    return math.log(two[1] / one[1]) / math.log(two[0] / one[0])


def _plot(path: Path, lines: dict[str, list[tuple[int, float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(lines), figsize=(10, 4), layout="constrained")
    for panel, (what, points) in zip(panels, lines.items(), strict=True):
        counts, seconds = zip(*points, strict=True)
        panel.loglog(counts, seconds, "o-", label="loftr2flax convert")
        panel.loglog(counts, [seconds[-1] * n / counts[-1] for n in counts], "--", color="grey", label="linear")
        panel.set(xlabel=what, ylabel="seconds")
        panel.legend()
        panel.grid(which="both", alpha=0.3)
    figure.savefig(path, dpi=120)
    print(f"drawn: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")

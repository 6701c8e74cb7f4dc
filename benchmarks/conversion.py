"""`convert official.ckpt -o out.npz` against the script that people write: torch.load, `.T`, np.savez."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.side_by_side import folder, report, run_in_turn

_MAKE = """
import sys, torch, kornia
torch.manual_seed(0)
state = kornia.feature.LoFTR(pretrained=None).state_dict()
torch.save({"state_dict": {"matcher." + key: value for key, value in state.items()}}, sys.argv[1])
"""

_SCRIPT = """
import sys, numpy as np, torch
state = torch.load(sys.argv[1])["state_dict"]
np.savez(sys.argv[2], **{k: v.numpy().T if v.ndim > 1 else v.numpy() for k, v in state.items()})
"""

_FLOOR = """
import sys, numpy as np
data = np.fromfile(sys.argv[1], np.float32, count=11_534_336).reshape(-1, 256, 256)
np.savez(sys.argv[2], **{str(n): part.T for n, part in enumerate(data)})
"""

_STAGES = """
import json, sys, time
clock = {"the interpreter": time.process_time()}
def done(name, less=0.0):
    clock[name] = time.process_time() - sum(clock.values()) - less
import loftr2flax.cli.app
done("typer and the command line")
import numpy
done("numpy")
import loftr2flax, loftr2flax.convert.stream, loftr2flax.filehash
from pathlib import Path
done("this package and PyYAML")
with loftr2flax.open_checkpoint(sys.argv[1]) as checkpoint:
    done("opening")
    for name in checkpoint.infos:
        checkpoint.read(name)
    done("reading with CRC")
loftr2flax.plan_conversion(sys.argv[1])
done("mappings and the plan", clock["opening"])
twice = clock["opening"]
loftr2flax.filehash.FileHash([Path(sys.argv[1])]).hexdigest()
done("SHA-256 of the input", twice)
known = sum(clock[name] for name in ("opening", "reading with CRC", "mappings and the plan", "SHA-256 of the input"))
begun = time.process_time()
loftr2flax.convert_checkpoint(sys.argv[1], sys.argv[2])
clock["transposing, and writing with CRC"] = time.process_time() - begun - known
print(json.dumps(clock))
"""
"""Each part of a conversion by itself, in seconds of CPU over all threads."""


def official() -> Path:
    """A checkpoint in the official layout at full size (211 tensors, 46 MB), with random weights."""
    path = folder() / "official.ckpt"
    if not path.exists():
        subprocess.run([sys.executable, "-c", _MAKE, str(path)], check=True)
    return path


def run() -> None:
    """Measures and prints."""
    source, here = str(official()), folder()
    outputs = [here / f"{name}.npz" for name in ("script", "ours", "floor")]
    program = [str(Path(sys.executable).with_name("loftr2flax"))]
    python = [sys.executable, "-c"]
    print("converting a full-size LoFTR checkpoint (211 tensors, 46 MB) to .npz")
    report(
        run_in_turn(
            {
                "script": [*python, _SCRIPT, source, str(outputs[0])],
                "loftr2flax": [*program, "convert", source, "-o", str(outputs[1])],
                "numpy alone": [*python, _FLOOR, source, str(outputs[2])],
            },
            outputs=outputs,
        ),
        against="script",
    )
    print("starting up")
    report(
        run_in_turn(
            {
                "import torch": [*python, "import torch"],
                "loftr2flax --help": [*program, "--help"],
                "loftr2flax inspect": [*program, "inspect", source],
            }
        ),
        against="import torch",
    )
    print("where the time of a conversion goes (CPU of all threads)")
    for part, seconds in _stages(source, str(here / "stages.npz")).items():
        print(f"  {part:<34}{1000 * seconds:5.0f} ms")


def _stages(source: str, output: str) -> dict[str, float]:
    """The middle of nine processes, part by part."""
    found = []
    for _ in range(9):
        Path(output).unlink(missing_ok=True)
        done = subprocess.run([sys.executable, "-c", _STAGES, source, output], check=True, capture_output=True)
        found.append(json.loads(done.stdout))
    Path(output).unlink()
    return {part: median(one[part] for one in found) for part in found[0]}

"""The workflow and the hook that the project offers, run as far as a machine without network can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from program import Outcome, run_program
from test_findings import log_commands, read_junit

from tools.sample import SampleSizes, write_sample

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / "docs" / "ci" / "github-actions.yml").read_text("utf-8"))
(JOB,) = WORKFLOW["jobs"].values()
STEPS = {step["name"]: step["run"] for step in JOB["steps"] if "run" in step}
INSTALL, CONVERT, WEIGHTS, PARITY, DIFF, REPORT = STEPS
HOOKS = ROOT / ".pre-commit-hooks.yaml"
OUT_OF_REACH = ("torch", "kornia")


class Runner:
    """A machine that runs steps as GitHub's does, and on which some packages are not installed.

    Attributes:
      folder: where the steps run.
      summary: the job's summary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = folder / "summary.md"
        self._tools = folder / "tools"
        self._tools.mkdir()
        program = self._tools / "loftr2flax"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m loftr2flax "$@"\n')
        program.chmod(0o755)
        for name in OUT_OF_REACH:
            absent = f"raise ModuleNotFoundError({f'No module named {name}'!r}, name={name!r})\n"
            (self._tools / f"{name}.py").write_text(absent)

    def step(self, script: str, **more: str) -> Outcome:
        """One step: bash, and the first command that fails ends it."""
        environment = {
            **os.environ, **{name: str(value) for name, value in WORKFLOW["env"].items()},
            "PATH": f"{self._tools}:{os.environ['PATH']}", "PYTHONPATH": f"{self._tools}:{ROOT}",
            "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(self.summary), **more,
        }  # fmt: skip
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A checkout: the checkpoint, its golden bundle, made with torch, and the released conversion."""
    folder = tmp_path_factory.mktemp("checkout")
    weights = folder / "weights"
    weights.mkdir()
    write_sample(weights / "loftr.ckpt", sizes=SampleSizes(coarse_layers=2))
    for command in (
        "convert weights/loftr.ckpt -m loftr -o weights/released.npz",
        "verify parity weights/loftr.ckpt weights/released.npz --sizes 64x72 --save-golden weights/golden.npz",
    ):
        done = run_program(*command.split(), cwd=folder)
        assert done.code == 0, done.err
    yield Runner(folder)
    shutil.rmtree(folder)


def test_what_the_workflow_is() -> None:
    assert WORKFLOW[True] == {"pull_request": {"paths": ["weights/**", "mappings/**"]}, "workflow_dispatch": None}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [step.get("uses") for step in JOB["steps"] if "run" not in step] == [
        "actions/checkout@v4", "actions/setup-python@v5", "actions/upload-artifact@v4",
    ]  # fmt: skip
    assert STEPS[INSTALL] == "python -m pip install loftr2flax jax flax"
    assert JOB["steps"][-1]["with"]["path"].split() == ["converted.npz", "diff.xml"]


def test_torch_is_out_of_reach(runner: Runner) -> None:
    for name in OUT_OF_REACH:
        assert runner.step(f"{sys.executable} -c 'import {name}'").code == 1
    done = runner.step("loftr2flax verify parity weights/loftr.ckpt weights/released.npz --format github")
    assert done.code == 4, "this one needs torch"
    assert log_commands(done.out)[0][0] == "error"


def test_the_steps_one_by_one_and_then_with_one_number_changed(runner: Runner) -> None:
    runner.summary.unlink(missing_ok=True)
    for name in (CONVERT, WEIGHTS, PARITY, DIFF, REPORT):
        done = runner.step(STEPS[name])
        assert done.code == 0, f"{name}: {done.err}"
        assert [command for command, _, _ in log_commands(done.out)] == (
            [] if name in (CONVERT, REPORT) else ["notice"]
        )
    assert runner.summary.read_text("utf-8").count("### ✓ loftr2flax ") == 3
    report = read_junit((runner.folder / "diff.xml").read_text())
    assert (report.attrib["tests"], report.attrib["failures"]) == (str(len(report.findall(".//testcase"))), "0")

    _change_one_number(runner.folder / "converted.npz")
    for name in (WEIGHTS, PARITY, DIFF):
        done = runner.step(STEPS[name], CHECKPOINT="weights/loftr.ckpt")
        assert done.code == 1, f"{name}: {done.err}"
        first, *_ = log_commands(done.out)
        assert first[0] == "error"
        assert "params/loftr_coarse/layers_1/merge/kernel" in first[1]["title"]
    assert runner.summary.read_text("utf-8").count("### ✗ loftr2flax ") == 3
    assert runner.step(STEPS[REPORT]).code == 0
    assert read_junit((runner.folder / "diff.xml").read_text()).attrib["failures"] == "1"


def _change_one_number(path: Path) -> None:
    with np.load(path) as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
        record = arrays.zip.comment
    leaves["params/loftr_coarse/layers_1/merge/kernel"][3, 5] *= 1.5
    np.savez(path, **leaves)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = record


def test_a_changed_checkpoint_is_seen_as_well(runner: Runner) -> None:
    write_sample(runner.folder / "weights" / "other.ckpt", seed=1, sizes=SampleSizes(coarse_layers=2))
    other = {"CHECKPOINT": "weights/other.ckpt"}
    (runner.folder / "converted.npz").unlink(missing_ok=True)
    assert runner.step(STEPS[CONVERT], **other).code == 0
    assert runner.step(STEPS[WEIGHTS], **other).code == 0
    done = runner.step(STEPS[DIFF], **other)
    assert done.code == 1
    assert len(log_commands(done.out)) == 11


GOOD = "mapping: good/1\ndense:\n  fc: fc\n"
BAD = "mapping: bad/1\ndens:\n  fc: fc\n"


def hook() -> dict[str, Any]:
    """The only hook."""
    (found,) = yaml.safe_load(HOOKS.read_text("utf-8"))
    return dict(found)


def test_the_manifest_is_one(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pre_commit", "validate-manifest", str(HOOKS)]
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "broken.yaml").write_text(HOOKS.read_text("utf-8").replace("  entry:", "  entyr:"))
    words[-1] = str(tmp_path / "broken.yaml")
    assert subprocess.run(words, env=environment, capture_output=True, check=False).returncode == 1


def test_the_entry_by_itself(call: Callable[..., Outcome], tmp_path: Path) -> None:
    program, *words = hook()["entry"].split()
    assert program == "loftr2flax"
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    assert call(*words, "good.yaml").code == 0
    done = call(*words, "good.yaml", "bad.yaml", "bad.yaml")
    assert done.code == 3
    assert done.err.count("bad.yaml:2:1: unknown word 'dens'") == 2


def test_the_hook_in_a_repository(tmp_path: Path) -> None:
    """pre-commit itself picks the files and calls the program; only its installation of the package is left out."""
    local = {
        **hook(),
        "language": "system",
        "entry": hook()["entry"].replace("loftr2flax", f"{sys.executable} -m loftr2flax"),
    }
    (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": [local]}]}))
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "good.yaml").write_text(GOOD)
    (tmp_path / "mappings" / "kinds.yaml").write_text("no: mapping\n")
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, capture_output=True)

    def commit_check(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "pre_commit", "run", "--color", "never", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = commit_check("--all-files")
    assert done.returncode == 0, done.stdout
    assert "Passed" in done.stdout
    (tmp_path / "mappings" / "bad.yaml").write_text(BAD)
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    done = commit_check()
    assert done.returncode == 1
    assert "bad.yaml:2:1: unknown word 'dens' (did you mean 'dense'?)" in done.stdout

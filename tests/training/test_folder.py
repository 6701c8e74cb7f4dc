"""A run's folder: what is in it is resumed to the bit, named where it is damaged, and never lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import run_program
from starting import DIMS
from tiny import TINY, same, tiny_config, tiny_options, weights

from loftr2flax.errors import CorruptFile, EnvironmentFault, InputError, OutputExists, UsageError
from loftr2flax.training import loop
from loftr2flax.training.checkpoints import Checkpoints
from loftr2flax.training.config import DenseConfig, MatchConfig
from loftr2flax.training.folder import held
from loftr2flax.training.images import open_images
from loftr2flax.training.loop import dense_task, match_task, train
from loftr2flax.training.metrics import Metrics
from loftr2flax.training.optimiser import make_optimiser
from loftr2flax.training.prints import synthetic_print
from loftr2flax.training.step import Placement, TrainState, new_state


def test_an_interrupted_run_ends_as_the_whole_one(whole, tmp_path, monkeypatch):
    """SIGTERM in the middle of an epoch, then --resume: the same bits in the weights, the same lines of metrics."""
    config = tiny_config(tmp_path / "run")
    real, seen = loop.batches, []

    def interrupted(*args, **options):
        for rows in real(*args, **options):
            seen.append(1)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield rows

    monkeypatch.setattr(loop, "batches", interrupted)
    first = train(config, dense_task)
    assert (first.step, first.signal) == (3, signal.SIGTERM)
    assert not same(weights(tmp_path / "run"), weights(whole))
    monkeypatch.setattr(loop, "batches", real)
    second = train(config, dense_task, resume=True)
    assert (second.step, second.resumed, second.signal) == (4, 3, None)
    assert same(weights(tmp_path / "run"), weights(whole))
    assert (tmp_path / "run/metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_sigterm_to_the_program(tmp_path):
    """The real program: it saves, says so, exits 143, and goes on with --resume."""
    words = [
        sys.executable,
        "-m",
        "loftr2flax",
        "train",
        "dense",
        *tiny_options(num_epochs=5000),
        "--checkpoint-dir",
        "run",
    ]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=tmp_path, **pipes)
    metrics = tmp_path / "run/metrics.jsonl"
    for _ in range(600):
        if process.poll() is not None or (metrics.exists() and '"train"' in metrics.read_text()):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "SIGTERM: the state is saved" in err
    assert "Traceback" not in err
    with Checkpoints(tiny_config(tmp_path / "run")) as checkpoints:
        assert checkpoints.latest >= 1


def test_a_run_is_not_written_over(whole):
    with pytest.raises(OutputExists, match="holds a run at step 4"):
        train(tiny_config(whole), dense_task)


@pytest.mark.parametrize("name", ["weights.npz", "curves.png"])
def test_results_without_a_state_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"dear")
    with pytest.raises(OutputExists, match=f"{name}: is there, and no state to go on from"):
        train(tiny_config(tmp_path), dense_task)
    assert (tmp_path / name).read_bytes() == b"dear"


def test_a_resumed_run_without_its_metrics(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").unlink()
    outcome = train(tiny_config(tmp_path / "run"), dense_task, resume=True)
    assert (outcome.first["step"], outcome.last["step"]) == (4, 4)


@pytest.mark.parametrize(
    "line",
    [
        "garbage", "3", "null", "[1]", '{"step": 1}', '{"kind": 1, "step": 1, "epoch": 1}', "\udcff",
        '{"kind": "foo", "step": 1, "epoch": 1}', '{"kind": "train", "step": -1, "epoch": 1}',
        '{"kind": "train", "step": true, "epoch": 1}', '{"kind": "train", "step": 1, "epoch": 1e999}',
        '{"kind": "train", "step": 1, "epoch": 1, "loss": [1]}', '{"kind": "train", "step": 1, "epoch": 1, "a": "x"}',
    ],
)  # fmt: skip
def test_metrics_that_are_damaged_are_named_and_kept(tmp_path, line):
    good = '{"kind": "train", "step": 1, "epoch": 0.5, "loss": 2.0}'
    text = f"{good}\n{line}\n{good}\n".encode("utf-8", "surrogateescape")
    (tmp_path / "metrics.jsonl").write_bytes(text)
    with pytest.raises(CorruptFile, match="line 2 is no row of metrics"):
        Metrics(tmp_path, 4)
    assert (tmp_path / "metrics.jsonl").read_bytes() == text
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{good[:20]}")
    assert len(Metrics(tmp_path, 4).rows) == 1


def test_a_run_has_its_folder_alone(whole, tmp_path):
    with held(whole), pytest.raises(EnvironmentFault, match="run: another run is at work there"):
        train(tiny_config(whole), dense_task, resume=True)
    before = sorted(path.name for path in whole.iterdir())
    with held(whole):
        assert sorted(path.name for path in whole.iterdir()) == before
    with pytest.raises(EnvironmentFault, match="another run is at work"), held(tmp_path), held(tmp_path):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="run: Not a directory"):
        train(tiny_config(tmp_path / "file/run"), dense_task)


def images_in(folder: Path, *, blank: bool = False) -> Path:
    folder.mkdir()
    for number in range(6):
        pixels = np.full((40, 36), 255.0) if blank else 255 * synthetic_print(number, 40, 36)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{100 + number}_1.png")
    return folder


def test_a_run_resumes_only_with_its_images(tmp_path):
    """A folder may move; a file that changes, goes or comes makes it another."""
    data, run = images_in(tmp_path / "data"), tmp_path / "run"
    train(tiny_config(run, dataset_root=str(data), num_epochs=1), dense_task)
    moved = data.rename(tmp_path / "moved")
    assert train(tiny_config(run, dataset_root=str(moved), num_epochs=1), dense_task, resume=True).step == 2
    other = images_in(tmp_path / "other")
    (other / "104_1.png").unlink()
    Image.fromarray(np.zeros((40, 36), np.uint8)).save(moved / "104_1.png")
    for root in (moved, other):
        with pytest.raises(UsageError, match=f"{root.name}: not the images that the run at .*run has had so far"):
            train(tiny_config(run, dataset_root=str(root), num_epochs=1), dense_task, resume=True)
    with pytest.raises(UsageError, match="synthetic images: not the images"):
        train(tiny_config(run, num_epochs=1), dense_task, resume=True)


def test_images_that_show_nothing(tmp_path):
    blank = images_in(tmp_path / "blank", blank=True)
    with pytest.raises(InputError, match="blank: nothing corresponds in 4 held-out pairs"):
        train(tiny_config(tmp_path / "run", dataset_root=str(blank)), dense_task)


def test_a_run_of_another_module(whole):
    options = {**TINY, "checkpoint_dir": str(whole)}
    with pytest.raises(UsageError, match="holds a run of `loftr2flax train dense`, and this is `loftr2flax train m"):
        train(MatchConfig(**options), match_task, resume=True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def misspell(path: Path) -> None:
    path.write_text(path.read_text().replace("loftr_parts", "loftr_pa2ts"))


ODD_RECORD = '{"command": "", "config": {}, "images": 1, "sha256": "", "seal": ""}'
DAMAGES = {
    "cut": ("state/ocdbt.process_0/d/*", cut, ""),
    "flipped": ("state/ocdbt.process_0/d/*", flip, ""),
    "no_data": ("state/ocdbt.process_0/d/*", Path.unlink, ""),
    "no_tree": ("state/_METADATA", Path.unlink, ""),
    "no_record": ("record/metadata", Path.unlink, ""),
    "cut_record": ("record/metadata", cut, ""),
    "list_as_record": ("record/metadata", partial(Path.write_text, data="[1, 2]"), "its record is damaged"),
    "null_as_record": ("record/metadata", partial(Path.write_text, data="null"), "its record is damaged"),
    "empty_record": ("record/metadata", partial(Path.write_text, data="{}"), "its record is damaged"),
    "record_of_another": ("record/metadata", partial(Path.write_text, data=ODD_RECORD), "its hash is another"),
    "misspelt_record": ("record/metadata", misspell, "its hash is another"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_refused(whole, tmp_path, capfd, name):
    """By our own hash, if by nothing before; and the one before it serves."""
    places, damage, told = DAMAGES[name]
    config = tiny_config(shutil.copytree(whole, tmp_path / "run"))
    state = _state_of(config)
    largest = max((tmp_path / "run/states/4").glob(places), key=lambda path: path.stat().st_size)
    damage(largest)
    with Checkpoints(config) as checkpoints, pytest.raises(CorruptFile, match="step 4 is damaged: .*" + told) as caught:
        checkpoints.restore(state)
    assert caught.value.hint == f"move {tmp_path}/run/states/4 away, and `--resume` goes on from step 2"
    assert capfd.readouterr().err == ""
    shutil.move(tmp_path / "run/states/4", tmp_path / "away")
    with Checkpoints(config) as checkpoints:
        assert int(checkpoints.restore(state).step) == 2


def test_no_bit_of_the_numbers_may_change(whole, tmp_path):
    """Orbax itself does not see it: what it restores then is other numbers."""
    config = tiny_config(shutil.copytree(whole, tmp_path / "run"))
    data = max((tmp_path / "run/states/4/state").rglob("d/*"), key=lambda path: path.stat().st_size)
    flip(data)
    with Checkpoints(config) as checkpoints, pytest.raises(CorruptFile, match="its hash is another"):
        checkpoints.restore(_state_of(config))


def _state_of(config: DenseConfig) -> TrainState:
    task = dense_task(config, open_images(config))
    state = new_state(task.variables, make_optimiser(config, task.variables["params"]))
    return Placement(config.batch_size).state(state)


TWICE = """
import os, signal, threading, time
from loftr2flax.training.checkpoints import Checkpoints
real = Checkpoints.save
def save(self, state):
    def send():
        for wait in (0.02, 0.05, 0.02):
            time.sleep(wait)
            os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=send, daemon=True).start()
    real(self, state)
Checkpoints.save = save
"""
"""Three signals while the first state is saved."""


def test_a_second_sigterm_ends_a_run_at_once(tmp_path):
    done = run_program(
        "train", "dense", *tiny_options(), "--checkpoint-dir", "run", cwd=tmp_path, prefix=TWICE, entry="program"
    )
    assert done.code == 143, done.err
    assert not [word for word in ("Traceback", "Error", "error:") if word in done.err]
    again = run_program("train", "dense", *tiny_options(), "--checkpoint-dir", "run", "--resume", cwd=tmp_path)
    if again.code:
        assert again.error.endswith("run: holds no run to resume")
    assert not list((tmp_path / "run/states").glob("*tmp*"))


def test_rows_of_a_run_that_saved_nothing_are_kept(tmp_path):
    for number in (1, 2, 3):
        Metrics(tmp_path, 0).add("train", number, 0.5, {"loss": 2.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl"]
    assert '"step": 1' in (tmp_path / "metrics.1.jsonl").read_text()
    assert '"step": 2' in (tmp_path / "metrics.2.jsonl").read_text()


def test_a_row_without_its_figures_hurts_nobody(whole, tmp_path, call):
    shutil.copytree(whole, tmp_path / "run")
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rows[0] = '{"kind": "evaluation", "step": 0, "epoch": 0}'
    (tmp_path / "run/metrics.jsonl").write_text("\n".join(rows) + "\n")
    done = call("train", "dense", *tiny_options(), "--checkpoint-dir", "run", "--resume")
    assert done.code == 0, done.err
    assert "correct: - at the start" in done.err


def test_a_run_is_not_asked_to_go_back(whole):
    with pytest.raises(UsageError, match="the run is at step 4, and num_epochs=1 ends at step 2") as caught:
        train(tiny_config(whole, num_epochs=1), dense_task, resume=True)
    assert caught.value.hint == "`--num-epochs 2` or more"


def test_a_run_resumes_only_as_itself(whole, tmp_path):
    with pytest.raises(UsageError, match=r"lr=0\.5: the run at .* has lr=0\.001"):
        train(tiny_config(whole, lr=0.5), dense_task, resume=True)
    with pytest.raises(UsageError, match="holds no run to resume"):
        train(tiny_config(tmp_path / "none"), dense_task, resume=True)
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import resource, signal
from loftr2flax.training.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
real = Checkpoints.save
def save(self, state):
    if int(state.step) == FROM:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
    real(self, state)
Checkpoints.save = save
"""
"""From a step on files may not grow: the system's own refusal, in the middle of a save."""


def test_a_full_disk_leaves_the_last_good_checkpoint(whole, tmp_path):
    options = [*tiny_options(), "--checkpoint-dir", "run"]
    full = run_program("train", "dense", *options, cwd=tmp_path, prefix=FULL_DISK.replace("FROM", "4"), entry="program")
    assert full.code == 4, full.err
    assert "Traceback" not in full.err
    assert "step 4 could not be saved" in full.error
    assert "step 2 is intact" in full.hint
    done = run_program("train", "dense", *options, "--resume", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["outcome"]["resumed"] == 2
    assert same(weights(tmp_path / "run"), weights(whole))


def test_a_disk_that_is_full_from_the_start(tmp_path):
    """The hint can be followed: nothing is there that keeps the run from beginning again."""
    options = [*tiny_options(num_epochs=1), "--checkpoint-dir", "run"]
    full = run_program("train", "dense", *options, cwd=tmp_path, prefix=FULL_DISK.replace("FROM", "2"), entry="program")
    assert (full.code, full.hint) == (4, "make room, then run it again: no step had been saved")
    assert "Traceback" not in full.err
    assert run_program("train", "dense", *options, cwd=tmp_path).code == 0


def test_a_resumed_run_needs_no_start(call, folder, tmp_path):
    """What started a run may be gone when it goes on; and a part's name that would write lines of its own does not."""
    evil = "params/head\nerror: all is lost\n  backbone/x"
    with np.load(folder / "whole.npz") as arrays:
        np.savez(tmp_path / "start.npz", **arrays, **{evil: np.ones(3, np.float32)})
    options = [*tiny_options(backbone_dims=DIMS), "--loftr-layers", 2, "--loftr-pretrained-ckpt", "start.npz"]
    done = call("train", "dense", *options, "--checkpoint-dir", "run", "--num-epochs", 1)
    assert done.code == 0, done.err
    assert not [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "20 leaves" in done.err
    (tmp_path / "start.npz").unlink()
    again = call("train", "dense", *options, "--checkpoint-dir", "run", "--resume", "--json")
    assert again.code == 0, again.err
    assert again.json["outcome"]["resumed"] == 2
    assert "leaves" not in again.err

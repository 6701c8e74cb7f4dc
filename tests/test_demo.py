"""`demo`: every step ends as it should, and its output says what a reader is to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oracle import assert_same_state, torch_state
from program import Outcome

Run = Callable[..., Outcome]


def test_the_demonstration(run: Run, tmp_path: Path) -> None:
    done = run("demo", "--folder", tmp_path / "new" / "demo")
    assert (done.code, done.err) == (0, "")
    steps = [line for line in done.out.splitlines() if line.startswith("$ loftr2flax ")]
    assert [step.split()[2] for step in steps] == [
        "inspect", "convert", "verify", "mapping", "convert", "convert", "verify", "convert", "verify",
        "match",
    ]  # fmt: skip
    assert "error: loftr_tiny.ckpt: --prefix loftr_coarse.coarse_transformer: no tensor is there" in done.out
    assert "1 of 4,096 elements differ; at [3, 5] " in done.out
    assert "171 of 171 tensors came back equal in every bit, under the same keys in the same order." in done.out
    assert "\nPASS  " in done.out
    assert "[exit 1]" in done.out
    assert "[exit 3]" in done.out
    folder = tmp_path / "new" / "demo"
    assert_same_state(torch_state(folder / "back.ckpt"), torch_state(folder / "loftr_tiny.ckpt"))
    assert not (folder / "wrong.npz").exists()
    assert {"report.html", "matches.png"} <= {path.name for path in folder.iterdir()}


def test_a_folder_in_use_is_left_alone(call: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loftr_tiny.ckpt").write_text("precious")
    done = call("demo", "--folder", "mine")
    assert (done.code, done.error) == (4, "mine: is not empty")
    assert "--folder" in done.hint
    assert (tmp_path / "mine" / "loftr_tiny.ckpt").read_text() == "precious"


def test_a_folder_that_is_a_file(call: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a file")
    done = call("demo", "--folder", "mine")
    assert (done.code, done.error) == (4, "mine: File exists")

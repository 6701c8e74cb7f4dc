"""`diff` as a program: what is compared, the page, the document, bad files, memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import FORMATS, Diff, Run, base, normal, save
from program import on_terminal, run_program

from loftr2flax.compare.values import KINDS
from loftr2flax.errors import UsageError
from tools.sample import SampleSizes, write_sample


def test_as_a_difftool_of_git(tmp_path: Path) -> None:
    """The two lines that docs/diff.md shows, in a repository."""
    manual = (Path(__file__).parents[2] / "docs" / "diff.md").read_text("utf-8")
    block = re.search(r"As a difftool.*?```sh\n(.*?)```", manual, re.DOTALL)
    assert block is not None
    program = Path(sys.executable).with_name("loftr2flax")
    if not (program.exists() and shutil.which("git")):
        pytest.skip("git, or the installed program, is not there")
    script = [
        "git init -q . && git config user.email a@b && git config user.name n",
        "git add weights.safetensors && git commit -qm one && mv later.safetensors weights.safetensors",
        "git commit -qam two",
        block[1],
    ]
    save(tmp_path / "weights.safetensors", base(), "safetensors")
    save(tmp_path / "later.safetensors", base() | {"a.bias": normal(6, seed=8)}, "safetensors")
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("only a.bias changed: 1 changed, 3 same\n")


class TestNothingCompared:
    def test_two_empty_files(self, call: Run, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz")
        done = call("diff", "a.npz", "b.npz", "--exit-zero")
        assert (done.code, done.out) == (5, "nothing was compared\n")

    def test_an_empty_file_and_another(self, call: Run, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz")
        save(tmp_path / "b.npz", base())
        assert call("diff", "a.npz", "b.npz").out.endswith("4 added\n")
        assert (call("diff", "a.npz", "b.npz").code, call("diff", "b.npz", "a.npz").code) == (1, 1)

    def test_a_glob_that_matches_nothing(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", "--only", "*.wieght")
        assert done.code == 5
        assert "note: --only '*.wieght' matches no leaf on either side\n" in done.err

    def test_what_cannot_be_read_is_never_the_same(self, call: Run, tmp_path: Path) -> None:
        torch.save({"s": torch.eye(3).to_sparse(), "w": torch.ones(2)}, tmp_path / "a.pt")
        done = call("diff", "a.pt", "a.pt")
        assert done.code == 1
        assert (
            "unread  s  (3, 3) f32    cannot be compared: sparse tensor on the left, sparse tensor on the right"
            in done.out
        )
        assert call("diff", "a.pt", "a.pt", "--only", "s").code == 5
        assert call("diff", "a.pt", "a.pt", "--ignore", "s").code == 0


class TestChoices:
    def test_globs(self, diff: Diff) -> None:
        right = base() | {"a.weight": normal(6, 4, seed=8), "a.bias": normal(6, seed=8)}
        assert diff(base(), right, ignore=["a.*"]).same
        assert diff(base(), right, only=["b.*"]).same
        assert diff(base(), right, only=["a.*", "b.*"], ignore=["*.bias"]).counts == {"changed": 1, "same": 2}
        found = diff(base(), right, only=["b.*"], ignore=["nowhere"])
        assert found.left_out == 4
        assert found.notes == ("--ignore 'nowhere' matches no leaf on either side",)

    def test_two_dicts_of_one_file(self, call: Run, tmp_path: Path) -> None:
        model = {"w": torch.ones(3, 2), "b": torch.zeros(3)}
        torch.save({"model": model, "ema": {**model, "w": 2 * model["w"]}}, tmp_path / "a.pt")
        done = call("diff", "a.pt", "a.pt", "--state-dict", "model", "--state-dict", "ema")
        assert (done.code, done.out.splitlines()[-1]) == (1, "only w changed: 1 changed, 1 same")
        assert call("diff", "a.pt", "a.pt", "--state-dict", "ema").code == 0
        assert [side["container"] for side in self._sides(call)] == ["model", "ema"]

    def _sides(self, call: Run) -> list[dict[str, str]]:
        document = call("diff", "a.pt", "a.pt", "--state-dict", "model", "--state-dict", "ema", "--json").json
        return [document["left"], document["right"]]

    def test_one_word_for_the_side_that_has_dicts(self, call: Run, tmp_path: Path) -> None:
        torch.save({"model": {"w": torch.ones(3)}, "ema": {"w": torch.zeros(3)}}, tmp_path / "a.pt")
        np.savez(tmp_path / "b.npz", w=np.zeros(3, np.float32))
        assert call("diff", "a.pt", "b.npz", "--state-dict", "ema").code == 0
        done = call("diff", "b.npz", "b.npz", "--state-dict", "ema")
        assert (done.code, done.hint) == (2, "leave out --state-dict")

    def test_below_a_prefix(self, diff: Diff) -> None:
        left = {f"net.{name}": array for name, array in base().items()} | {"other": normal(3)}
        found = diff(left, base(), prefix=("net", None))
        assert (found.same, found.left_out) == (True, 1)
        assert diff(left, left, prefix="net.").counts == {"same": 4}
        with pytest.raises(UsageError, match="no leaf on either side begins so"):
            diff(left, base(), prefix="ney")
        with pytest.raises(UsageError, match=r"--prefix ney: no leaf in .*left\.npz begins so"):
            diff(left, {f"net.{name}": array for name, array in base().items()}, prefix=("ney", "net"))

    @pytest.mark.parametrize("option", ["--prefix", "--state-dict"])
    def test_three_words(self, call: Run, tmp_path: Path, option: str) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", option, "a", option, "b", option, "c")
        assert (done.code, done.error) == (2, f"{option} is given 3 times")

    def test_a_mapping_for_two_of_a_kind(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", "-m", "loftr")
        assert (done.code, done.hint) == (2, "leave out --mapping")


class TestPage:
    def test_two_unrelated_networks(self, call: Run, tmp_path: Path) -> None:
        write_sample(tmp_path / "a.ckpt")
        shutil.copy(tmp_path / "a.ckpt", tmp_path / "plain.ckpt")
        write_sample(tmp_path / "b.ckpt", 7, SampleSizes((10, 14, 18), 24, 6, 12, 2))
        state = {f"blocks.{n}.{leaf}.w": torch.ones(n + 2, 3) for n in range(150) for leaf in "abc"}
        torch.save(state, tmp_path / "c.pt")
        for other in ("b.ckpt", "c.pt"):
            done = call("diff", "a.ckpt", other)
            assert done.code == 1
            assert len(done.out.splitlines()) <= 42
            assert len(call("diff", "a.ckpt", other, "--limit", 8).out.splitlines()) <= 11
        assert len(call("diff", "a.ckpt", "c.pt", "--full").out.splitlines()) == 171 + 450 + 2

    def test_every_leaf_of_a_full_page(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        save(tmp_path / "b.npz", base() | {"a.bias": normal(6, seed=8)})
        rows = call("diff", "a.npz", "b.npz", "--full").out.splitlines()
        assert [row.split()[:2] for row in rows[:4]] == [
            ["changed", "a.bias"], ["same", "a.weight"], ["same", "b.weight"], ["same", "b.steps"],
        ]  # fmt: skip

    def test_stat(self, call: Run, tmp_path: Path) -> None:
        left = {f"layers.{n}.w": normal(10, 4, seed=n) for n in range(4)} | {"gone": np.ones(10), "kept": np.ones(3)}
        right = {name: array + 1 if "layers" in name else array for name, array in left.items() if name != "gone"}
        save(tmp_path / "a.npz", left)
        save(tmp_path / "b.npz", right | {"new": np.full((20, 2), 3.0)})
        done = call("diff", "a.npz", "b.npz", "--stat")
        assert done.code == 1
        assert done.out.splitlines() == [
            " layers.{0..3}.w  |  160  " + 40 * "~",
            " gone             |   10  --",
            " new              |   40  " + 10 * "+",
            " 6 leaves of 7 differ, 210 numbers",
            " 4 changed, 1 removed, 1 added, 1 same; of values, only layers changed",
        ]

    def test_hostile_names(self, call: Run, tmp_path: Path) -> None:
        name = "a\n::error::forged\x1b[31m.w"
        torch.save({name: torch.ones(2), "\x07.w": torch.ones(3)}, tmp_path / "a.pt")
        torch.save({name: torch.zeros(2), "\x07.w": torch.zeros(3)}, tmp_path / "b.pt")
        for words in ([], ["--stat"], ["--full"], ["--only", "\x07*"]):
            done = call("diff", "a.pt", "b.pt", *words)
            assert done.code == 1
            assert not {"\x1b", "\x07"} & set(done.out + done.err)
            assert not any(line.startswith("::") for line in done.out.splitlines())
        assert "error::forged\\x1b[31m.w" in call("diff", "a.pt", "b.pt").out

    def test_json(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        save(tmp_path / "b.npz", base() | {"a.bias": base()["a.bias"] + 1, "nan": np.array([np.nan])})
        done = call("diff", "a.npz", "b.npz", "--json")
        assert (done.code, done.err) == (1, "")
        document = json.loads(done.out, parse_constant=pytest.fail)
        assert list(document) == [
            "schema", "left", "right", "mapping", "tolerance", "same", "exit_code", "summary", "compared", "numbers",
            "left_out", "counts", "notes", "findings",
        ]  # fmt: skip
        assert document["schema"] == "loftr2flax.diff/1"
        assert document["counts"] == {"changed": 1, "added": 1, "same": 3}
        finding = next(f for f in document["findings"] if f["leaf"] == "a.bias")
        assert finding["left"] == {"name": "a.bias", "shape": [6], "dtype": "float32"}
        assert (finding["measures"]["changed"], finding["measures"]["share"]) == (6, 1.0)

    def test_exit_zero(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        save(tmp_path / "b.npz", base() | {"a.bias": normal(6, seed=8)})
        assert call("diff", "a.npz", "b.npz", "--exit-zero").code == 0
        assert call("diff", "a.npz", "b.npz").code == 1

    def test_quiet(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        done = call("diff", "a.npz", "a.npz", "--ignore", "zzz", "-q")
        assert (done.code, done.err) == (0, "")

    def test_every_kind_is_in_the_manual(self) -> None:
        manual = (Path(__file__).parents[2] / "docs" / "diff.md").read_text("utf-8")
        for kind in KINDS:
            assert f"`{kind}`" in manual


class TestBadFiles:
    @pytest.mark.parametrize("format", FORMATS)
    def test_truncated(self, call: Run, tmp_path: Path, format: str) -> None:
        save(tmp_path / "a.npz", base())
        path = save(tmp_path / f"b.{FORMATS[format]}", base(), format)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        done = call("diff", "a.npz", path)
        assert done.code == 3
        assert str(path) in done.error
        assert "Traceback" not in done.err

    @pytest.mark.parametrize("place", ["equal", "differs"])
    def test_damage_is_told_before_any_answer(self, call: Run, tmp_path: Path, place: str) -> None:
        weight = normal(300, 1000)
        save(tmp_path / "a.npz", {"w": weight, "v": normal(3)})
        if place == "differs":
            weight[0, 0] += 1
        path = save(tmp_path / "b.npz", {"w": weight, "v": normal(3)})
        data = bytearray(path.read_bytes())
        data[data.index(weight[-1].tobytes()) + 2000] ^= 64
        path.write_bytes(data)
        done = call("diff", "a.npz", path)
        assert (done.code, done.out) == (3, "")
        assert "fails its check" in done.error

    def test_missing_and_folder(self, call: Run, tmp_path: Path) -> None:
        save(tmp_path / "a.npz", base())
        assert call("diff", "a.npz", "nowhere.npz").code == 3
        assert call("diff", "a.npz", tmp_path).code == 3
        assert call("diff", tmp_path, "a.npz", "--state-dict", "x").code == 3
        assert call("diff", "a.npz").code == 2


def test_memory_does_not_follow_the_leaf(run: Run, tmp_path: Path) -> None:
    """Two leaves of 512 MiB each; holes in files of zeros, so that nothing is written."""
    count = 1 << 27
    for name in ("a", "b"):
        header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
        with (tmp_path / f"{name}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 4 * count)
    with (tmp_path / "b.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(2).tobytes())
    script = "import atexit; atexit.register(lambda: print([s for s in open('/proc/self/status') if 'VmHWM' in s]))"
    done = run("diff", "a.safetensors", "b.safetensors", prefix=script)
    assert done.code == 1
    assert f"1 of {count:,} elements differ, max abs 2 at [{count - 1}]: 0.0 → 2.0" in done.out
    assert int(done.out.splitlines()[-1].split()[1]) * 1024 < 100e6


def test_a_terminal_is_not_overrun(tmp_path: Path) -> None:
    """Names lose their middle, what differs goes on below itself; nothing of it is lost, and a file gets it all."""
    name = f"{'very_' * 20}long.weight"
    torch.save({name: torch.ones(2, 3), "short": torch.ones(4)}, tmp_path / "a.pt")
    torch.save({name: torch.zeros(2, 3), "short": torch.zeros(5)}, tmp_path / "b.pt")
    words = ["diff", "a.pt", "b.pt"]
    whole = run_program(*words, cwd=tmp_path, COLUMNS="90").out
    assert name in whole
    shown = on_terminal(*words, cwd=tmp_path, columns=90)
    assert max(map(len, shown.splitlines())) <= 90 < max(map(len, whole.splitlines()))
    label = shown.split()[1]
    assert name.startswith(label.split("…")[0])
    assert name.endswith(label.split("…")[1])
    assert shown.replace(label, name).split() == whole.split()  # the rest is all there, in its order

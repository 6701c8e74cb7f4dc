"""Coarse matching and the fine stage by another hand: right ones pass, each mistake is named where it is made."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from small_loftr import HEADS, SIZES
from usual_late_mistakes import factory

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.convert import convert_checkpoint
from loftr2flax.formats import open_checkpoint
from loftr2flax.formats.writer import open_writer
from loftr2flax.models.loftr.smoothing import Smoothing
from loftr2flax.parity import Culprit, StageRow, verify_parity
from loftr2flax.parity.judge import Rounding, judge
from loftr2flax.parity.loftr import subject as loftr
from loftr2flax.parity.run import Replay
from loftr2flax.parity.source import opened

BIN_SCORE = 15.0
"""Among the similarities of this network, so that the dustbin counts."""


@pytest.fixture(scope="session")
def transport(folder, tmp_path_factory):
    """The small network with optimal transport: a checkpoint that has a ``bin_score``, and its conversion."""
    place = tmp_path_factory.mktemp("transport")
    score = "matcher.coarse_matching.bin_score"
    with open_checkpoint(folder / "small.ckpt") as small:
        infos = {**small.infos, score: LeafInfo((), "float32")}
        with open_writer(place / "small.ckpt", "torch", infos, {}, container="state_dict") as writer:
            for key in writer.order:
                writer.write(key, np.float32(BIN_SCORE) if key == score else small.read(key))
    convert_checkpoint(place / "small.ckpt", place / "loftr.npz", "loftr", facts={"heads": HEADS})
    return place


class Judge:
    """Torch's word on both runs of a network, said once, and the search for a cause."""

    def __init__(self, place) -> None:
        with opened(place / "small.ckpt", place / "loftr.npz", None, {}, None, None) as pair:
            config = loftr.config_of(pair.infos(), pair.facts)
            part = loftr.torch_part(pair.state(), config, (), 0, SIZES, coarse_only=False)
            self.variables, self.facts, self.explain = pair.variables(), pair.facts, part.explain
        self.part = part
        self.records = [part.record(feed) for feed in part.feeds]

    def culprit(self, stage: str, mistake: str) -> Culprit | None:
        """Of the first run in which the stage is wrong by itself."""
        candidate = factory(mistake)(self.variables, self.facts)
        for record in self.records:
            made = candidate.stage(stage, record.given())
            names = [name for name in record.stages[stage] if name != "matches"]
            own = tuple(judge(name, made[name], record.alone[name], record.own[name]) for name in names)
            row = StageRow(stage, own, own)
            if row.wrong_by_itself:
                return self.explain(row, record, Replay((row,), made, made))
        return None


@pytest.fixture(scope="module")
def judged(folder) -> Judge:
    return Judge(folder)


@pytest.fixture(scope="module")
def transported(transport) -> Judge:
    return Judge(transport)


@pytest.mark.parametrize("place", ["folder", "transport"])
def test_right_stages_by_another_hand_pass(request, place):
    place = request.getfixturevalue(place)
    report = verify_parity(place / "small.ckpt", place / "loftr.npz", sizes=SIZES, flax=factory())
    assert report.passed, report.culprit


def test_the_verdict_names_the_mistake(folder):
    report = verify_parity(folder / "small.ckpt", folder / "loftr.npz", sizes=SIZES, flax=factory("y before x"))
    assert report.exit_code == 1
    assert report.culprit.stage == "expectation"
    assert report.culprit.cause == "coordinates in the order y, x instead of x, y"


@pytest.mark.parametrize(
    ("stage", "mistake", "cause"),
    [
        ("conf_matrix", "width squared", "features divided by their width instead of the square root of their width"),
        ("conf_matrix", "one softmax", "a softmax over image 1 alone"),
        ("conf_matrix", "no masks", "masks are not obeyed"),
        ("fine_preprocess", "corner", "windows stand +2 fine cells right and down of where they belong"),
        ("fine_preprocess", "columns first", "the cells of a window are listed column by column instead of row by row"),
        (
            "fine_preprocess",
            "unfold order",
            "unfold's numbers, channels before cells, are read as cells before channels",
        ),
        ("fine_preprocess", "edge", "windows hold the edge's own cells instead of zeros beyond the map"),
        ("fine_preprocess", "concat", "merge_feat reads [coarse, window] instead of [window, coarse]"),
        (
            "fine_preprocess",
            "other image",
            "the coarse feature merged in is that of the other image's cell instead of that of the cell",
        ),
        (
            "fine_preprocess",
            "early features",
            "the coarse feature merged in is that of before the transformer instead of that of the cell",
        ),
        ("fine_preprocess", "no biases", "the biases of down_proj and merge_feat are not added"),
        ("expectation", "y before x", "coordinates in the order y, x instead of x, y"),
        ("expectation", "from zero", "coordinates 0 to 1 instead of -1 to 1"),
        (
            "expectation",
            "one root",
            "the standard deviation is the root of the summed variances instead of the sum of both deviations",
        ),
        ("expectation", "peak", "the peak of the heatmap instead of the expectation"),
        ("expectation", "first cell", "the first cell of window 0 is looked for instead of the centre"),
        ("expectation", "not scaled", "similarities not divided by the square root of the width"),
    ],
    ids=lambda value: value if len(value) < 16 else None,
)
def test_a_mistake_is_named(judged, stage, mistake, cause):
    found = judged.culprit(stage, mistake)
    assert (found.stage, found.cause, found.kind) == (stage, cause, "computation")


@pytest.mark.parametrize(("mistake", "passes"), [("rounded down", True), ("one root", False), ("from zero", False)])
def test_windows_that_are_sure_forgive_a_rounding_and_no_mistake(judged, mistake, passes):
    """Torch's softmax gives 1 there, XLA's the number before it, and a root makes 2.4e-4 of that."""
    given = judged.records[0].given()
    anchor = next(name for name in reversed(given) if name.startswith("loftr_fine/") and name.endswith("/0"))
    given[anchor] = given[anchor].copy()
    given[anchor][::2] *= 1000  # half of the windows are sure
    exact = judged.part.oracle.stage("expectation", given)["expectation"]
    torch = [side.stage("expectation", given)["expectation"] for side in (judged.part.reference, *judged.part.others)]
    roundings = [Rounding.of(made, exact) for made in torch]
    made = factory(mistake)(judged.variables, judged.facts).stage("expectation", given)["expectation"]
    assert (exact[::2, 2] < 2.1e-5).all()
    assert (exact[1::2, 2] > 0.1).all()
    assert not judge("by torch alone", made, exact, roundings[0]).passed
    assert judge("expectation", made, exact, Rounding.widest(roundings)).passed == passes


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        ("initial bin_score", "bin_score 1 (1 is its initial value) instead of the checkpoint's 15"),
        ("ten iterations", "10 Sinkhorn iterations instead of 3"),
        ("light dustbins", "dustbins that hold one cell instead of as many as the other image has cells"),
        ("shares", "the transport plan is not multiplied by the number of cells"),
        ("dual softmax", "dual softmax instead of optimal transport"),
    ],
    ids=lambda value: value if len(value) < 20 else None,
)
def test_a_mistake_in_optimal_transport_is_named(transported, mistake, cause):
    assert transported.culprit("conf_matrix", mistake).cause == cause


def test_a_bin_score_at_its_initial_value_is_a_wrong_leaf(transport, tmp_path):
    """In the tree it is found before any run; in the code, where nothing shows it, by the run."""
    with np.load(transport / "loftr.npz") as arrays:
        leaves = {name: arrays[name] for name in arrays.files}
    leaves["params/coarse_matching/bin_score"] = np.float32(1)
    np.savez(tmp_path / "initial.npz", **leaves)
    facts = {"heads": HEADS}
    report = verify_parity(transport / "small.ckpt", tmp_path / "initial.npz", "loftr", sizes=SIZES, facts=facts)
    assert report.culprit.cause == "params/coarse_matching/bin_score is still at the initial value"
    assert report.culprit.stage == "conf_matrix"


def test_windows_that_are_smoothed_wrongly_fail_the_free_run(folder, monkeypatch):
    """What `match` runs: own errors, of windows cut from torch's map, do not see it."""
    right = Smoothing.windows
    monkeypatch.setattr(Smoothing, "windows", lambda *args: right(*args)[:, ::-1])
    jax.clear_caches()
    report = verify_parity(folder / "small.ckpt", folder / "loftr.npz", sizes=SIZES)
    jax.clear_caches()
    assert report.exit_code == 1
    row = next(row for row in report.runs[0].stages if row.stage == "fine_preprocess")
    assert row.own_ratio <= 2 < row.drift_ratio
    assert report.culprit.stage == "fine_preprocess"

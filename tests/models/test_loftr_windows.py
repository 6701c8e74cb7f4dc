"""Fine maps made in the windows of the matches alone: the numbers of the whole map, however many matches there are.

In float64, where two orders of summation differ by some 1e-15: a tolerance of 1e-11 leaves no room for a wrong cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import pytest
from weights import flax_variables, random_state

from loftr2flax.models.loftr import LoFTR, LoFTRConfig
from loftr2flax.models.loftr import matcher as matcher_module
from loftr2flax.models.loftr.backbone import ResNetFPN
from loftr2flax.models.loftr.matcher import grid
from loftr2flax.models.loftr.smoothing import Smoothing
from loftr2flax.models.loftr.windows import smoothed_windows, windows, worth_windows

SMALL = LoFTRConfig(block_dims=(16, 24, 32), heads=4, coarse_layers=("self", "cross"), dtype="float64")
HALF = LoFTRConfig(
    resolution=(16, 4), block_dims=(8, 16, 24, 32), heads=4, coarse_layers=("self", "cross"), dtype="float64"
)
EXACT = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def network(config: LoFTRConfig):
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), flax_variables(random_state(config), config))
    return LoFTR(config), variables


def images(seed: int = 0) -> list[np.ndarray]:
    """Two of different sizes, no multiples of 8; a batch of 2."""
    rng = np.random.default_rng(seed)
    return [rng.random((2, height, width, 1)) for height, width in ((61, 83), (54, 93))]


def all_cells(*grids: tuple[int, int]) -> np.ndarray:
    """[3, M]: every cell of image 0, also those at the border, with one of image 1, in both of a batch."""
    cells0, cells1 = (height * width for height, width in grids)
    rng = np.random.default_rng(1)
    return np.stack([np.repeat([0, 1], cells0), np.tile(np.arange(cells0), 2), rng.integers(0, cells1, 2 * cells0)])


@pytest.mark.parametrize("config", [SMALL, HALF], ids=["8 2", "16 4"])
def test_windows_smoothed_one_by_one_are_those_of_the_smoothed_map(config):
    _, variables = network(config)
    variables = {kind: tree["backbone"] for kind, tree in variables.items()}

    @jax.jit
    def both_ways(variables, image):
        bound = ResNetFPN(config).bind(variables)
        coarse, rough = bound.rough(image)
        again, fine = bound(image)
        height, width = grid(coarse)
        batch, cells = np.repeat([0, 1], height * width), np.tile(np.arange(height * width), 2)
        place = (batch, cells, width, config.fine_stride, config.fine_window)
        return (coarse, again), (smoothed_windows(bound.smooth, rough, *place), windows(fine, *place))

    (coarse, again), (smoothed, expected) = both_ways(variables, images()[0])
    np.testing.assert_array_equal(coarse, again)
    assert (np.asarray(expected) == 0).all(-1).any()  # some reach beyond the map
    np.testing.assert_allclose(smoothed, expected, **EXACT)


def maps_of(model, variables, rough: bool):
    features = jax.jit(partial(model.apply, rough=rough, method="features"))
    (coarse0, fine0), (coarse1, fine1) = features(variables, *images())
    grids = grid(coarse0), grid(coarse1)
    flat = [coarse.reshape(2, -1, coarse.shape[-1]) for coarse in (coarse0, coarse1)]
    return (fine0, fine1, *flat), grids


@dataclass(frozen=True)
class Refining:
    """The fine stage of one network on one pair of images, compiled once for any choice of matches."""

    model: LoFTR
    variables: Any
    rough: Any
    grids: Any
    ids: np.ndarray
    expected: np.ndarray

    @cached_property
    def as_it_is(self):
        return self._compiled()

    @cached_property
    def windows_alone(self):  # traced where the whole map is never worth it
        return self._compiled()

    def _compiled(self):
        @jax.jit
        def refine(variables, maps, ids, valid):
            return self.model.apply(variables, *maps, ids, valid, *self.grids, True, method="refine")

        return lambda valid: refine(self.variables, self.rough, self.ids, valid)


@pytest.fixture(scope="module")
def refining():
    with jax.enable_x64(True):
        model, variables = network(SMALL)
        whole, grids = maps_of(model, variables, rough=False)
        rough, _ = maps_of(model, variables, rough=True)
        ids = all_cells(*grids)
        refine = jax.jit(lambda *given: model.apply(*given, *grids, method="refine_windows"))
        return Refining(model, variables, rough, grids, ids, np.asarray(refine(variables, *whole, ids)))


@pytest.mark.parametrize("kept", [0, 1, 33, 61, 176])
def test_any_number_of_matches_is_refined_alike(refining, kept, monkeypatch):
    """0, 1, more than a chunk, nearly as many as windows are worth, all: in windows, and on the whole map."""
    assert refining.ids.shape[1] == 176
    valid = np.arange(176) < kept
    assert np.abs(refining.expected).min() > 0
    expected = np.where(valid[:, None], refining.expected, 0)
    np.testing.assert_allclose(refining.as_it_is(valid), expected, **EXACT)
    monkeypatch.setattr(matcher_module, "worth_windows", lambda config: 1.0)  # never the whole map
    np.testing.assert_allclose(refining.windows_alone(valid), expected, **EXACT)


def test_the_whole_map_is_smoothed_only_where_there_are_more_matches_than_windows_are_worth(monkeypatch):
    model, variables = network(SMALL)
    rough, grids = maps_of(model, variables, rough=True)
    ids = all_cells(*grids)
    most = int(worth_windows(SMALL) * (176 + 2 * 7 * 12) / 2)
    blank = [np.zeros((2, *grid(rough[side]), 16)) for side in (0, 1)]
    of_blank = np.asarray(model.apply(variables, *blank, *rough[2:], ids, *grids, method="refine_windows"))
    monkeypatch.setattr(Smoothing, "__call__", lambda self, rough, train=False: 0 * rough[..., :16])

    @jax.jit
    def refine(valid):
        return model.apply(variables, *rough, ids, valid, *grids, True, method="refine")

    few, many = (np.asarray(refine(np.arange(176) < kept)) for kept in (most, most + 1))
    assert np.abs(few - of_blank)[:most].min() > 0
    np.testing.assert_allclose(many[: most + 1], of_blank[: most + 1], **EXACT)


def test_gradients_go_through_windows_as_through_the_map(refining):
    def loss(params, maps, ids):
        variables, valid = {**refining.variables, "params": params}, np.ones(ids.shape[1], bool)
        found = refining.model.apply(variables, *maps, ids, valid, *refining.grids, True, method="refine")
        return (found[:3, :2] ** 2).sum()  # of a deviation near 0 rounding is amplified

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    given = refining.variables["params"], refining.rough
    some = refining.ids[:, [0, 12, 90]]
    few, many = (gradient(*given, ids) for ids in (some, np.concatenate([some, refining.ids], 1)))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **EXACT), few, many)
    assert all(np.any(leaf) for leaf in few[1])
    assert np.any(few[0]["backbone"]["layer1_outconv2_0"]["kernel"])


def test_windows_are_worth_it_up_to_a_quarter_of_the_cells():
    multiplications = 16 * (196 * 196 + 196 * 128) / (49 * 196 * 196 + 25 * 196 * 128)
    assert worth_windows(LoFTRConfig.outdoor_ds()) == pytest.approx(3 / 5 * multiplications)


def test_few_matches_leave_the_map_out_of_what_is_computed():
    model, variables = network(SMALL)
    pair, ids = images(), all_cells((8, 11), (7, 12))

    def convolutions(ids: np.ndarray) -> int:  # those of 3×3 without a stride, which have a form of their own on CPU
        jaxpr = jax.make_jaxpr(lambda: model.apply(variables, *pair, ids=ids).expec_f)()
        return str(jaxpr).count("platform_index[")

    # per image: three levels of two blocks of two, but for two with a stride, and the two of each smoothing of a map
    assert convolutions(ids[:, :5]) == 2 * (3 * 4 - 2 + 2)
    assert convolutions(ids) == 2 * (3 * 4 - 2 + 2 + 2)

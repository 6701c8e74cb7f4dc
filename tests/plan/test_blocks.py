"""A copy in blocks is a copy, whatever the shapes, the order of the axes and the strides."""

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loftr2flax.plan import blocks
from loftr2flax.plan.blocks import copy_across


@given(st.data())
def test_any_order_of_any_axes(data):
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 5, 17, 33]), min_size=0, max_size=4)))
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    dtype = data.draw(st.sampled_from(["u1", "f2", "f4", "c16"]))
    apart = data.draw(st.booleans())  # the output is a part of a larger array
    flips = tuple(axis for axis in range(len(shape)) if data.draw(st.booleans()))
    source = (np.arange(np.prod(shape, dtype=int)) % 251).astype(dtype).reshape(shape).transpose(order)
    source = np.flip(source, flips)
    whole = np.full((*source.shape, 2) if apart else source.shape, 99, dtype)
    out = whole[..., 1] if apart else whole
    run, rows = data.draw(st.sampled_from([1, 16, 64, 256])), data.draw(st.sampled_from([1, 7, 512]))
    clash = data.draw(st.sampled_from([1, 2, 1 << 20]))  # every block by way of memory of its own, some, none
    with mock.patch.multiple(blocks, _SMALL=0, _RUN=run, _ROWS=rows, _CLASH=clash):
        copy_across(out, source)
    np.testing.assert_array_equal(out, source)
    if apart:
        assert (whole[..., 0] == 99).all()


def test_blocks_are_met_once_and_are_small(monkeypatch):
    met = np.zeros((41, 700, 5, 3), int)
    for block in blocks._blocks(met.shape, 16):
        met[block] += 1
        assert met[block].size <= 16 * blocks._ROWS
    assert (met == 1).all()


def test_a_transposed_matrix_goes_by_blocks(monkeypatch):
    taken = []
    real = blocks._blocks
    monkeypatch.setattr(blocks, "_blocks", lambda *a: taken.append(a) or real(*a))
    source = np.arange(300 * 500, dtype=np.float32).reshape(300, 500)
    out = np.empty((500, 300), np.float32)
    copy_across(out, source.T)
    assert taken
    np.testing.assert_array_equal(out, source.T)
    taken.clear()
    copy_across(np.empty_like(source), source)
    assert not taken


def test_rows_that_share_places_of_the_cache_are_brought_apart():
    def by_way_of_other_memory(columns: int) -> bool:
        source = np.arange(200 * columns, dtype=np.float32).reshape(200, columns)
        out, real, made = np.empty((columns, 200), np.float32), np.empty, []
        with mock.patch.object(blocks.np, "empty", lambda *a: made.append(real(*a)) or made[-1]):
            copy_across(out, source.T)
        np.testing.assert_array_equal(out, source.T)
        assert all(room.strides[0] % blocks._CLASH for room in made)
        return bool(made)

    assert by_way_of_other_memory(512)
    assert not by_way_of_other_memory(500)

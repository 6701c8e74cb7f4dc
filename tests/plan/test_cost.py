"""The cost of a plan follows the number of names: counted in calls, which no busy machine changes."""

import sys

import pytest
from round_trip import mapping_of

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import MappingMismatch
from loftr2flax.plan import build_plan

TEXT = "mapping: big/1\nindex: {i: 0.., p: [q, k]}\ndense:\n  layers.{i}.{p}: layers_{i}/{p}\n"


def _calls(act):
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        act()
    except MappingMismatch:
        pass
    finally:
        sys.setprofile(None)
    return count


def _headers(layers, root="m."):
    shapes = {"weight": (3, 4), "bias": (3,)}
    return {
        f"{root}layers.{i}.{p}.{w}": LeafInfo(shape, "float32")
        for i in range(layers)
        for p in "qk"
        for w, shape in shapes.items()
    }


def _good(n):
    return _headers(n), "forward"


def _reverse(n):
    return build_plan(mapping_of(TEXT), _headers(n)).infos, "reverse"


def _left_over(n):
    return _headers(n) | {f"m.extra{i}.{i}": LeafInfo((), "float32") for i in range(4 * n)}, "forward"


def _wrong_sizes(n):
    return {name: LeafInfo((5,), "float32") for name in _headers(n)}, "forward"


def _many_roots(n):
    return {f"r{i}.{name}": info for i in range(n) for name, info in _headers(1).items()}, "forward"


@pytest.mark.parametrize("make", [_good, _reverse, _left_over, _wrong_sizes, _many_roots])
def test_cost_is_in_line_with_the_names(make):
    mapping = mapping_of(TEXT)
    few, many = (_calls(lambda n=n: build_plan(mapping, *make(n))) for n in (50, 400))
    assert many < 12 * few, "eight times the names, about eight times the calls"

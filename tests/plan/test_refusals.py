"""Errors that come from what is asked for: their class, message and hint."""

import pytest
from refusals import FC, NET, REFUSALS, _plan

from loftr2flax.errors import Loftr2FlaxError
from loftr2flax.mapping.names import NameSyntaxError
from loftr2flax.plan import PrefixNotFound


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name):
    act, kind, message, hint = REFUSALS[name]
    with pytest.raises((Loftr2FlaxError, NameSyntaxError)) as caught:
        act()
    assert type(caught.value).__name__ == kind
    assert str(caught.value).endswith(message)
    assert getattr(caught.value, "hint", "") == hint


def test_prefix_not_found_carries_where_it_is():
    with pytest.raises(PrefixNotFound) as caught:
        _plan(FC, NET, prefix="n")
    assert caught.value.found == ("m",)

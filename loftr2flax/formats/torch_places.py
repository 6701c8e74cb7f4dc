"""What a refused file holds, and what else in it could be meant: the material of messages and hints."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from loftr2flax.formats.torch_describe import tally_tensors, words
from loftr2flax.formats.torch_globals import TensorClaim
from loftr2flax.formats.torch_nodes import attributes_of, follow, is_optimizer, join, module_state

_MAX_DEPTH = 50


def find_places(top: object, wanted: Callable[[object], bool]) -> Iterator[tuple[str, object]]:
    """The wanted values that a dotted path leads to, outer ones first, each once and by a path that leads there."""
    seen, waiting = {id(top)}, deque([("", top, 0)])
    while waiting:
        path, value, depth = waiting.popleft()
        if wanted(value):
            way = follow(top, path)
            if way is not None and way[-1][1] is value:  # not hidden by another of the same path
                yield path, value
        for name, child in _steps(value) if depth < _MAX_DEPTH else ():
            if id(child) not in seen and not isinstance(child, TensorClaim):
                seen.add(id(child))
                if not is_optimizer(attributes_of(child)):
                    waiting.append((join(path, name), child, depth + 1))


def contents(top: object, places: bool) -> str:
    """What a file holds that is no state dict; ``places`` tells whether some lie further in."""
    if isinstance(top, TensorClaim):
        return "a single tensor without a name"
    if isinstance(top, dict) and is_optimizer(top):
        return "an optimizer's state"
    tensors = tally_tensors(top, set()).tensors
    if not tensors:
        return "a dict without any" if isinstance(top, dict) else _article(words(top))
    where = "some in dicts further in" if places else "none in a state dict"
    return f"{_article(words(top))} with {tensors} tensor{'s' * (tensors != 1)}, {where}"


def _steps(value: object) -> Iterator[tuple[str, object]]:
    """Where a dotted path can go from a value; a module is taken whole."""
    if isinstance(value, (list, tuple)):
        yield from ((str(index), child) for index, child in enumerate(value))
    elif module_state(value) is None:
        yield from ((key, child) for key, child in attributes_of(value).items() if isinstance(key, str))


def _article(said: str) -> str:
    return f"{'an' if said[0] in 'aeiou' else 'a'} {said}"

"""What in an unpickled object is a dict, a module or an optimizer, and which of its parts go by names."""

from __future__ import annotations

from collections.abc import Iterator

from loftr2flax.formats.pickle_values import OpaqueObject
from loftr2flax.formats.torch_describe import inner
from loftr2flax.formats.torch_globals import TensorClaim

Chain = list[tuple[str, object]]
"""The way to a container: the keys and values passed, beginning with ("", the file itself)."""

_INNER = (dict, list, tuple, set, frozenset, OpaqueObject, TensorClaim)


def mapping_of(value: object) -> dict[object, object] | None:
    """The keys and values of a dict, or of an inert object that was filled like one; None for all else."""
    if isinstance(value, dict):
        return value
    return value.pairs if isinstance(value, OpaqueObject) else None


def attributes_of(value: object) -> dict[object, object]:
    """What a dotted path can go on with: a dict's items, or an inert object's attributes; empty for all else."""
    pairs = mapping_of(value)
    if pairs is None and isinstance(value, OpaqueObject):
        pairs = mapping_of(value.state)
    return pairs or {}


def module_state(value: object) -> dict[object, object] | None:
    """The attributes of an inert object that was an ``nn.Module``; None for all else."""
    if not isinstance(value, OpaqueObject) or not isinstance(value.state, dict):
        return None
    parts = (value.state.get("_parameters"), value.state.get("_modules"))
    return value.state if all(mapping_of(part) is not None for part in parts) else None


def is_optimizer(pairs: dict[object, object]) -> bool:
    """Whether a dict is what ``Optimizer.state_dict()`` gives."""
    return "param_groups" in pairs and "state" in pairs


def named_parts(node: object) -> Iterator[tuple[object, object]]:
    """What lies directly under a node: a dict's items; what ``state_dict()`` would visit of a module, in its order."""
    state = module_state(node)
    if state is None:
        yield from (mapping_of(node) or {}).items()
        return
    skipped = state.get("_non_persistent_buffers_set")
    for group in ("_parameters", "_buffers", "_modules"):
        for name, value in (mapping_of(state.get(group)) or {}).items():
            hidden = group == "_buffers" and isinstance(skipped, (set, list)) and name in skipped
            if value is not None and not hidden:
                yield name, value


def named_holders(top: object, most: int) -> set[int] | None:
    """The identities of all tensors, and of all values under which one lies by names; None past ``most`` containers.

    Tensors in lists and in the state of an optimizer have no names. Linear in the number of references.
    """
    parents: dict[int, list[int]] = {}
    seen, waiting, holders = {id(top)}, [top], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorClaim):
            holders.append(id(value))
        for child in inner(value):
            if isinstance(child, _INNER) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
        if len(seen) > most:
            return None
        if not is_optimizer(mapping_of(value) or {}):
            for key, child in named_parts(value):
                if isinstance(key, str) and isinstance(child, _INNER):
                    parents.setdefault(id(child), []).append(id(value))
    found: set[int] = set()
    while holders:
        identity = holders.pop()
        if identity not in found:
            found.add(identity)
            holders += parents.get(identity, ())
    return found


def follow(top: object, path: str) -> Chain | None:
    """The way along a dotted path; keys may themselves have dots, and list items go by their index; None: nowhere."""
    return _follow([("", top)], path.split(".") if path else [])


def _follow(chain: Chain, parts: list[str]) -> Chain | None:
    """The chain prolonged by ``parts``, of which several may make one key; None where they lead nowhere."""
    value = chain[-1][1]
    if not parts:
        return chain
    if isinstance(value, (list, tuple)):
        index = int(parts[0]) if parts[0].isdecimal() and len(parts[0]) < 10 else len(value)
        return _follow([*chain, (parts[0], value[index])], parts[1:]) if index < len(value) else None
    pairs = attributes_of(value)
    for size in range(1, len(parts) + 1):
        key = ".".join(parts[:size])
        if key in pairs:
            found = _follow([*chain, (key, pairs[key])], parts[size:])
            if found is not None:
                return found
    return None


def path_of(chain: Chain) -> str:
    """The dotted path at the end of a chain; "" for the file itself."""
    return ".".join(key for key, _ in chain[1:])


def join(path: str, name: str) -> str:
    """The path of ``name`` in the container at ``path``."""
    return f"{path}.{name}" if path else name

"""Finding state dicts in what a PyTorch pickle holds, and flattening the one that was chosen.

A *node* is a dict with text for keys, or a pickled ``nn.Module``, under which tensors lie. Optimizer states are none.
The choice, where it is not made by the caller: a child of a well-known name; else, where nothing lies beside it, the
only child; else the file itself. Nothing recurses; sharing is allowed (tied modules), a container inside itself is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loftr2flax.checkpoint import Container, Unread
from loftr2flax.errors import CorruptFile, InputError, LimitExceeded
from loftr2flax.formats.pickle_values import OpaqueObject
from loftr2flax.formats.torch_describe import count_tensors, inner, words
from loftr2flax.formats.torch_globals import TensorClaim

PREFERRED = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights",
    "model_state", "model_weights", "module_state_dict",
)  # fmt: skip
"""Names that state dicts go by, the first that is found is taken."""

MAX_VALUES = 1_000_000
"""Values that a container may hold, counted as often as they are reached."""

MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome: the chosen container's path, its claims by name, and what else there is."""

    container: str
    claims: dict[str, TensorClaim]
    containers: tuple[Container, ...]
    unread: tuple[Unread, ...]


def find_state_dict(top: object, where: str, state_dict: str | None = None) -> Found:
    """The state dict inside an unpickled object; ``state_dict`` names it by a dotted path, "" being the object itself.

    Raises:
      InputError: there is none, none of that name, or one with keys that are no text.
      CorruptFile: a container lies inside itself, or two leaves have one name.
      LimitExceeded: more than `MAX_VALUES` values, or deeper than `MAX_DEPTH`.
    """
    tree = _Tree(top, where)
    chain = tree.choose() if state_dict is None else tree.follow(state_dict)
    claims, beside = tree.flatten(chain)
    containers = tree.list_containers(chain, len(claims))
    return Found(_path(chain), claims, containers, tuple(tree.describe_all(beside)))


Chain = list[tuple[str, object]]
"""The way to a container: the keys and values passed, beginning with ("", the file itself)."""


def _path(chain: Chain) -> str:
    return ".".join(key for key, _ in chain[1:])


class _Tree:
    """An unpickled object, and which of its parts hold tensors."""

    def __init__(self, top: object, where: str) -> None:
        self.top = top
        self.where = where
        self.holding = _holders(top)
        self.described: set[int] = set()
        self.counts_left = 2 * MAX_VALUES  # for all counts together: many containers can share one content

    def is_node(self, value: object) -> bool:
        if id(value) not in self.holding:
            return False
        if module_state(value) is not None:
            return True
        pairs = mapping_of(value)
        return pairs is not None and not _is_optimizer(pairs) and any(isinstance(key, str) for key in pairs)

    def nodes_in(self, value: object) -> dict[str, object]:
        """The nodes directly under a dict, by key; a module's parts are no containers of their own."""
        pairs = mapping_of(value) or {}
        return {key: child for key, child in pairs.items() if isinstance(key, str) and self.is_node(child)}

    def has_tensors(self, value: object) -> bool:
        return any(isinstance(child, TensorClaim) for child in (mapping_of(value) or {}).values())

    def choose(self) -> Chain:
        """The way to the container that a user would mean."""
        chain: Chain = [("", self.top)]
        named = False
        while True:
            value = chain[-1][1]
            nodes = self.nodes_in(value)
            known = next((name for name in PREFERRED if name in nodes), None)
            alone = len(nodes) == 1 and not self.has_tensors(value)
            if known is not None and (alone or not named):
                chain.append((known, nodes[known]))
                named = True
            elif alone and not named:
                chain.append(next(iter(nodes.items())))
            elif self.is_node(value):
                return chain
            else:
                raise self.nothing_found()
            if len(chain) > MAX_DEPTH:
                raise self.too_deep()

    def follow(self, path: str) -> Chain:
        """The way along a dotted path; keys may themselves have dots, and list items go by their index."""
        if not path:
            found: Chain | None = [("", self.top)]
        else:
            found = _follow([("", self.top)], path.split("."))
        if found is None or id(found[-1][1]) not in self.holding or isinstance(found[-1][1], TensorClaim):
            raise self.no_such_container(path)
        return found

    def flatten(self, chain: Chain) -> tuple[dict[str, TensorClaim], list[tuple[str, object]]]:
        """The claims of the container at the end of a chain, and all that stands beside them, with full paths."""
        claims: dict[str, TensorClaim] = {}
        beside: list[tuple[str, object]] = []
        prefix = _path(chain)
        for depth, (_, value) in enumerate(chain[:-1]):
            above, taken = _path(chain[: depth + 1]), chain[depth + 1][0]
            siblings = (mapping_of(value) or {}).items()
            beside += [(_join(above, _show(key)), child) for key, child in siblings if key != taken]
        for name, value in self.walk(chain[-1][1]):
            if not isinstance(value, TensorClaim):
                beside.append((_join(prefix, _show(name)), value))
            elif not isinstance(name, str):
                raise InputError(
                    f"{self.where}: the state dict {prefix!r} has a tensor under a key that is not text: {_show(name)}",
                    "name another place with --state-dict",
                )
            elif name in claims:
                raise CorruptFile(
                    f"{self.where}: two leaves are called {name!r}", "name an inner dict with --state-dict"
                )
            else:
                claims[name] = value
        if not claims:
            raise self.no_such_container(prefix)
        return claims, beside

    def walk(self, node: object) -> Iterator[tuple[object, object]]:
        """Names and values under a node, names of nested nodes joined by dots; a key that is not text comes alone."""
        open_: list[tuple[str, Iterator[tuple[object, object]], int]] = [("", _parts(node), id(node))]
        inside = {id(node)}
        left = MAX_VALUES
        while open_:
            prefix, parts, identity = open_[-1]
            for key, value in parts:
                left -= 1
                if left < 0:
                    raise self.too_many()
                if not isinstance(key, str) or not self.is_node(value):
                    yield (prefix + key if isinstance(key, str) else key), value
                    continue
                if id(value) in inside:
                    raise CorruptFile(f"{self.where}: the container {prefix + key!r} lies inside itself")
                if len(open_) >= MAX_DEPTH:
                    raise self.too_deep()
                inside.add(id(value))
                open_.append((f"{prefix}{key}.", _parts(value), id(value)))
                break
            else:
                open_.pop()
                inside.discard(identity)

    def list_containers(self, chain: Chain, taken: int | None = None) -> tuple[Container, ...]:
        """The places to choose from: along the chain, each dict that could be meant, and the children beside it.

        ``taken`` is the number of tensors at the chain's end, where that is known.
        """
        found: dict[str, object] = {}
        for depth, (_, value) in enumerate(chain[:-1] or chain):
            path, nodes = _path(chain[: depth + 1]), self.nodes_in(value)
            if len(nodes) > 1 or self.has_tensors(value) or len(chain) == 1:
                found[path] = value
            found |= {_join(path, name): node for name, node in nodes.items()}
        found.setdefault(_path(chain), chain[-1][1])
        counts = {path: self.count(node) for path, node in found.items() if path != _path(chain) or taken is None}
        return tuple(Container(path, counts.get(path, taken or 0)) for path in found)

    def count(self, node: object) -> int:
        """Tensors under a node. One that is not taken may be unsound: it is looked over, shared parts once."""
        tensors, seen, waiting = 0, {id(node)}, [node]
        while waiting:
            for key, value in _parts(waiting.pop()):
                self.counts_left -= 1
                if self.counts_left < 0:
                    raise self.too_many()
                if not isinstance(key, str):
                    continue
                tensors += isinstance(value, TensorClaim)
                if id(value) not in seen and self.is_node(value):
                    seen.add(id(value))
                    waiting.append(value)
        return tensors

    def describe_all(self, values: list[tuple[str, object]]) -> Iterator[Unread]:
        for path, value in values:
            yield Unread(path, self.describe(value))

    def describe(self, value: object) -> str:
        """A value in a few words; tensors that several values share are counted with the first."""
        tensors = 0 if isinstance(value, TensorClaim) else count_tensors(value, self.described)
        said = words(value)
        return f"{said}, {tensors} tensor{'s' * (tensors != 1)}" if tensors else said

    # errors

    def nothing_found(self) -> InputError:
        kind = f"a {words(self.top)}" if not isinstance(self.top, dict) else "a dict without any"
        if isinstance(self.top, TensorClaim):
            kind = "a single tensor without a name"
        return InputError(
            f"{self.where}: no state dict was found: the file holds {kind}",
            "save `model.state_dict()` with torch.save, or name the place with --state-dict",
        )

    def no_such_container(self, path: str) -> InputError:
        try:
            known = self.list_containers(self.choose())
        except InputError:
            known = ()
        there = ", ".join(f"{place.path or 'the file itself (an empty name)'}: {place.tensors}" for place in known)
        return InputError(
            f"{self.where}: there is no state dict {path!r}",
            f"these hold tensors: {there}" if there else "nothing in the file holds tensors under names",
        )

    def too_many(self) -> LimitExceeded:
        return LimitExceeded(
            f"{self.where}: containers hold more than {MAX_VALUES} values", "name a smaller one with --state-dict"
        )

    def too_deep(self) -> LimitExceeded:
        return LimitExceeded(
            f"{self.where}: containers lie more than {MAX_DEPTH} deep", "name an inner one with --state-dict"
        )


def mapping_of(value: object) -> dict[object, object] | None:
    """The keys and values of a dict, or of an inert object that was filled like one; None for all else."""
    if isinstance(value, dict):
        return value
    return value.pairs if isinstance(value, OpaqueObject) else None


def module_state(value: object) -> dict[object, object] | None:
    """The attributes of an inert object that was an ``nn.Module``; None for all else."""
    if not isinstance(value, OpaqueObject) or not isinstance(value.state, dict):
        return None
    parts = (value.state.get("_parameters"), value.state.get("_modules"))
    return value.state if all(mapping_of(part) is not None for part in parts) else None


def _is_optimizer(pairs: dict[object, object]) -> bool:
    return "param_groups" in pairs and "state" in pairs


def _parts(node: object) -> Iterator[tuple[object, object]]:
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


def _holders(top: object) -> set[int]:
    """The identities of all values under which, at any depth, a tensor lies. Linear in the number of references."""
    parents: dict[int, list[int]] = {id(top): []}
    waiting, holders = [top], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorClaim):
            holders.append(id(value))
        for child in inner(value):
            if isinstance(child, (dict, list, tuple, set, frozenset, OpaqueObject, TensorClaim)):
                if id(child) not in parents:
                    parents[id(child)] = []
                    waiting.append(child)
                parents[id(child)].append(id(value))
    found: set[int] = set()
    while holders:
        identity = holders.pop()
        if identity not in found:
            found.add(identity)
            holders += parents[identity]
    return found


def _follow(chain: Chain, parts: list[str]) -> Chain | None:
    """The chain prolonged by ``parts``, of which several may make one key; None where they lead nowhere."""
    value = chain[-1][1]
    if not parts:
        return chain
    if isinstance(value, (list, tuple)):
        index = int(parts[0]) if parts[0].isdecimal() and len(parts[0]) < 10 else len(value)
        return _follow([*chain, (parts[0], value[index])], parts[1:]) if index < len(value) else None
    pairs = mapping_of(value)
    if pairs is None and isinstance(value, OpaqueObject):
        pairs = mapping_of(value.state)
    for size in range(1, len(parts) + 1):
        key = ".".join(parts[:size])
        if pairs is not None and key in pairs:
            found = _follow([*chain, (key, pairs[key])], parts[size:])
            if found is not None:
                return found
    return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(key: object) -> str:
    return key if isinstance(key, str) else words(key)

"""Finding state dicts in what a PyTorch pickle holds, and flattening the one that was chosen.

A *node* is a dict or a pickled ``nn.Module`` under which tensors lie by names alone. Optimizer states are none.
The choice, where it is not made by the caller: a child of a well-known name; else, where nothing lies beside it, the
only child; else the file itself. Nothing recurses; sharing is allowed (tied modules), a container inside itself is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from loftr2flax.checkpoint import Container, Unread
from loftr2flax.errors import CorruptFile, InputError, LimitExceeded
from loftr2flax.formats.torch_describe import tally_tensors, words
from loftr2flax.formats.torch_globals import TensorClaim
from loftr2flax.formats.torch_nodes import Chain, follow, join, mapping_of, named_holders, named_parts, path_of
from loftr2flax.formats.torch_places import contents, find_places
from loftr2flax.limits import DEFAULT, Limits

PREFERRED = (
    "state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights",
    "model_state", "model_weights", "module_state_dict",
)  # fmt: skip
"""Names that state dicts go by, the first that is found is taken."""

MAX_DEPTH = 200

_SHOWN = 8  # places that a hint names


class Found(NamedTuple):
    """The outcome: the chosen container's path, its claims by name, and what else there is."""

    container: str
    claims: dict[str, TensorClaim]
    containers: tuple[Container, ...]
    unread: tuple[Unread, ...]


def find_state_dict(top: object, where: str, state_dict: str | None = None, limits: Limits = DEFAULT) -> Found:
    """The state dict inside an unpickled object; ``state_dict`` names it by a dotted path, "" being the object itself.

    Raises:
      InputError: there is none, none of that name, or one with keys that are no text.
      CorruptFile: a container lies inside itself, or two leaves have one name.
      LimitExceeded: more values than ``limits`` allow, each counted as often as it is reached; deeper than `MAX_DEPTH`.
    """
    tree = _Tree(top, where, limits.values)
    chain = tree.choose() if state_dict is None else tree.follow(state_dict)
    claims, beside = tree.flatten(chain)
    containers = tree.list_containers(chain, len(claims))
    return Found(path_of(chain), claims, containers, tuple(tree.describe_all(beside)))


class _Tree:
    """An unpickled object, and which of its parts hold tensors."""

    def __init__(self, top: object, where: str, most: int) -> None:
        self.top = top
        self.where = where
        self.most = most
        holding = named_holders(top, most)
        if holding is None:
            raise self.too_many()
        self.holding = holding
        self.described: set[int] = set()
        self.counts_left = 2 * most  # for all counts together: many containers can share one content

    def is_node(self, value: object) -> bool:
        return id(value) in self.holding and not isinstance(value, TensorClaim)

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
        """The way along a dotted path."""
        found = follow(self.top, path)
        if found is None:
            raise self.no_such_container(path)
        return found

    def flatten(self, chain: Chain) -> tuple[dict[str, TensorClaim], list[tuple[str, object]]]:
        """The claims of the container at the end of a chain, and all that stands beside them, with full paths."""
        claims: dict[str, TensorClaim] = {}
        beside: list[tuple[str, object]] = []
        prefix = path_of(chain)
        for depth, (_, value) in enumerate(chain[:-1]):
            above, taken = path_of(chain[: depth + 1]), chain[depth + 1][0]
            siblings = (mapping_of(value) or {}).items()
            beside += [(join(above, _show(key)), child) for key, child in siblings if key != taken]
        for name, value in self.walk(chain[-1][1]):
            if not isinstance(value, TensorClaim):
                beside.append((join(prefix, _show(name)), value))
            elif not isinstance(name, str):
                if not self.is_node(chain[-1][1]):
                    raise self.no_such_container(prefix)
                raise self.no_text(prefix, name)
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
        open_: list[tuple[str, Iterator[tuple[object, object]], int]] = [("", named_parts(node), id(node))]
        inside = {id(node)}
        left = self.most
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
                    raise CorruptFile(
                        f"{self.where}: the container {prefix + key!r} lies inside itself",
                        "take another with --state-dict, or save this one without what leads back to it",
                    )
                if len(open_) >= MAX_DEPTH:
                    raise self.too_deep()
                inside.add(id(value))
                open_.append((f"{prefix}{key}.", named_parts(value), id(value)))
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
            path, nodes = path_of(chain[: depth + 1]), self.nodes_in(value)
            if self.is_node(value) and (len(nodes) > 1 or self.has_tensors(value) or len(chain) == 1):
                found[path] = value
            found |= {join(path, name): node for name, node in nodes.items()}
        found.setdefault(path_of(chain), chain[-1][1])
        counts = {path: self.count(node) for path, node in found.items() if path != path_of(chain) or taken is None}
        return tuple(Container(path, counts.get(path, taken or 0)) for path in found)

    def count(self, node: object) -> int:
        """Tensors under a node. One that is not taken may be unsound: it is looked over, shared parts once."""
        tensors, seen, waiting = 0, {id(node)}, [node]
        while waiting:
            for key, value in named_parts(waiting.pop()):
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
            yield self.describe(path, value)

    def describe(self, path: str, value: object) -> Unread:
        """A value in a few words; tensors that several values share are counted with the first."""
        tensors, nbytes = tally_tensors(value, self.described)
        said = words(value)
        if tensors and not isinstance(value, TensorClaim):
            said += f", {tensors} tensor{'s' * (tensors != 1)}"
        return Unread(path, said, nbytes)

    # errors

    def nothing_found(self) -> InputError:
        places = self.places()
        return InputError(
            f"{self.where}: no state dict was found: the file holds {contents(self.top, bool(places))}",
            f"take one of these with --state-dict: {places}" if places else "save `model.state_dict()` with torch.save",
        )

    def no_such_container(self, path: str) -> InputError:
        if not path:
            return self.nothing_found()
        places = self.places(path)
        return InputError(
            f"{self.where}: there is no state dict {path!r}",
            f"these hold tensors: {places}" if places else "nothing in the file holds tensors under names",
        )

    def no_text(self, path: str, key: object) -> InputError:
        where = f"the state dict {path!r}" if path else "the file"
        places = self.places(without=path)
        return InputError(
            f"{self.where}: {where} has a tensor under a key that is not text: {_show(key)}",
            f"take one of these with --state-dict: {places}" if places else "save it with text for keys",
        )

    def places(self, asked: str = "", without: str | None = None) -> str:
        """What --state-dict can name, with the number of tensors; what ends as was asked comes first.

        ``without`` is a path that is left out, together with all that it lies in.
        """
        known = list(find_places(self.top, self.is_worth_naming))
        if without is not None:
            known = [place for place in known if place[0] and not f"{without}.".startswith(f"{place[0]}.")]
        known.sort(key=lambda place: not f".{place[0]}".endswith(f".{asked}") if asked else False)
        shown = [f"{path or 'the file itself (an empty name)'}: {self.count(node)}" for path, node in known[:_SHOWN]]
        more = len(known) - len(shown)
        return ", ".join(shown) + (f", and {more} more" if more else "")

    def is_worth_naming(self, value: object) -> bool:
        """Whether a node is more than the wrapping of another, and has text for the keys of its tensors."""
        if not self.is_node(value):
            return False
        keys = [key for key, child in (mapping_of(value) or {}).items() if isinstance(child, TensorClaim)]
        return all(isinstance(key, str) for key in keys) if keys else len(self.nodes_in(value)) != 1

    def too_many(self) -> LimitExceeded:
        return LimitExceeded(
            f"{self.where}: containers hold more than {self.most} values",
            "name a smaller one with --state-dict, or allow more with --max-tensors",
        )

    def too_deep(self) -> LimitExceeded:
        return LimitExceeded(
            f"{self.where}: containers lie more than {MAX_DEPTH} deep", "name an inner one with --state-dict"
        )


def _show(key: object) -> str:
    return key if isinstance(key, str) else words(key)

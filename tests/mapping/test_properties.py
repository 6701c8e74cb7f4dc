"""What holds for every layout, every name and every text, tried on random ones."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loftr2flax.checkpoint import LeafInfo
from loftr2flax.errors import MappingError, Place
from loftr2flax.folding import fold, fold_line
from loftr2flax.mapping import mappings_folder, parse_mapping
from loftr2flax.mapping.matching import Matcher
from loftr2flax.mapping.names import parse_name
from loftr2flax.mapping.rules import Index
from loftr2flax.plan import Wishes, build_plan, run_move

_PLACE = Place("x.yaml", 1, 1)


def _carry(mapping, arrays, direction):
    infos = {name: LeafInfo(array.shape, str(array.dtype)) for name, array in arrays.items()}
    plan = build_plan(mapping, infos, direction, Wishes())
    return {move.leaf: run_move(move, arrays.__getitem__).copy() for move in plan.moves}


@st.composite
def lines(draw):
    """A line over random axes: permuted, merged, flipped, stacked or split by indices, ragged; and its arrays."""
    letters = draw(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True))
    sizes = {letter: draw(st.integers(1, 4)) for letter in letters}
    counts = {name: draw(st.integers(1, 3)) for name in draw(st.sets(st.sampled_from("uvw"), max_size=3))}
    table = {}
    values = {name: list(range(count)) for name, count in counts.items()}
    ragged = bool(counts) and draw(st.booleans())
    if ragged:
        over = sorted(counts)[0]
        values[over] = [f"r{n}" for n in range(counts[over])]
        table = {value: draw(st.integers(1, 4)) for value in values[over]}
    where = {name: draw(st.sampled_from(["names", "torch", "flax", "brackets"])) for name in sorted(counts)}
    sides, names = [], []
    for side in ("torch", "flax"):
        inside = [n for n in sorted(counts) if where[n] not in ("names", side)]
        lead = [f"{over} R"] if ragged and over in inside else ["R"] if ragged else []
        plain = [n for n in inside if not (ragged and n == over)]
        words = draw(st.permutations([*letters, *plain]))
        groups = []
        for word in words:
            flipped = draw(st.sampled_from(["", "-"])) + word
            if groups and draw(st.booleans()):
                groups[-1].append(flipped)
            else:
                groups.append([flipped])
        texts = [f"({' '.join(group)})" if len(group) > 1 or draw(st.booleans()) else group[0] for group in groups]
        texts += [f"({' '.join(words)})" for words in lead]
        texts = draw(st.permutations(texts + (["1"] if draw(st.booleans()) else [])))
        sides.append(f"[{' '.join(texts)}]")
        separator = "." if side == "torch" else "/"
        outside = [n for n in sorted(counts) if where[n] in ("names", side)]
        names.append(separator.join(["w", *(f"{{{n}}}" for n in outside)]))
    text = "mapping: random/1\n"
    if counts:
        text += "index: {" + ", ".join(f"{n}: {values[n]}" for n in counts).replace("'", "") + "}\n"
    given_sizes = [f"{a}: {n}" for a, n in sizes.items()]
    if ragged:
        given_sizes.append("R: {" + ", ".join(f"{n}: {size}" for n, size in table.items()) + "}")
    text += "let: {" + ", ".join(given_sizes) + "}\n"
    text += f"tensors:\n  w{names[0][1:]} {sides[0]}: {names[1]} {sides[1]}\n"
    return text, (sizes, values, table, over if ragged else None), names[0], sides[0]


def _size(word, bindings, known):
    sizes, values, table, over = known
    word = word.removeprefix("-")
    return table[bindings[over]] if word == "R" else sizes.get(word) or len(values.get(word, "1"))


def _shape(side, bindings, known):
    """The shape that a layout has, worked out here from its text alone."""
    over = known[3]
    shape = []
    for axis in re.findall(r"\(([^)]*)\)|(\S+)", side[1:-1]):
        words = (axis[0] or axis[1]).split()
        if "R" in words and words[0] == over:
            shape.append(sum(known[2].values()))
        else:
            shape.append(int(np.prod([_size(word, bindings, known) for word in words])))
    return tuple(shape)


@settings(max_examples=150)
@given(lines())
def test_random_layouts_there_and_back(line):
    text, known, name, side = line
    mapping = parse_mapping(text.encode(), Path("random.yaml"))
    pattern = parse_name(name, ".")
    arrays, start = {}, 0
    for values in itertools.product(*(known[1][n] for n in pattern.indices)):
        bindings = dict(zip(pattern.indices, values, strict=True))
        shape = _shape(side, bindings, known)
        count = int(np.prod(shape))
        arrays[pattern.format(bindings)] = np.arange(start, start + count, dtype=np.int32).reshape(shape)
        start += count
    tree = _carry(mapping, arrays, "forward")
    numbers = np.concatenate([array.reshape(-1) for array in tree.values()])
    assert sorted(numbers) == list(range(start)), "every number arrives, and once"
    back = _carry(mapping, tree, "reverse")
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)


@settings(max_examples=100)
@given(st.data())
def test_a_name_that_is_written_is_read_again(data):
    indices = {
        "i": Index("i", None, 0, False, _PLACE),
        "j": Index("j", None, data.draw(st.integers(1, 3)), False, _PLACE),
        "k": Index("k", (0, 1, 2), 0, False, _PLACE),
        "p": Index("p", ("q", "k_proj", 7), 0, False, _PLACE),
    }
    holes = ["{i}", "{3*j+k}", "{p}", "{k}", "{2*i+5}", "{j-1}", "{3*i+k+1}"]
    piece = st.sampled_from([*holes, "layers", "x_", "a-b", "w0_"])
    segments = st.lists(piece, min_size=1, max_size=2).filter(lambda two: sum("i" in x or "j" in x for x in two) < 2)
    text = ".".join("".join(segment) for segment in data.draw(st.lists(segments, min_size=1, max_size=4)))
    name = parse_name(text, ".")
    bindings = {}
    for index in name.indices:
        values = indices[index].values
        bindings[index] = data.draw(
            st.sampled_from(values) if values else st.integers(indices[index].start, 40), label=index
        )
    written = name.format(bindings)
    found = Matcher([(4, name)], indices).match(written.split("."))
    assert (4, bindings) in found
    for _, other in found:
        assert name.format(other) == written, "whatever it reads, it writes again"
    assert str(parse_name(str(name), ".")) == str(name)


_WORDS = ["layers", ".", "0", "1", "10", "007", "q", "_", "{0..1}", "99999999999999999999", "²"]


@settings(max_examples=300)
@given(st.lists(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).map("".join), max_size=30))
def test_a_fold_stands_for_exactly_its_names(names):
    folded = fold(names)
    stood_for = [name for group in folded.values() for name in group]
    assert sorted(stood_for) == sorted(set(names))
    for label, group in folded.items():
        if not any("{" in name for name in group):
            assert sorted(_unfold(label)) == sorted(group)


def _unfold(label):
    parts = re.split(r"\{([^}]*)\}", label)
    spans = [
        [n for word in span.split(",") for n in (range(int(word.split("..")[0]), int(word.split("..")[-1]) + 1))]
        for span in parts[1::2]
    ]
    return [
        "".join(text + str(n) for text, n in zip(parts[::2], [*values, ""], strict=True))
        for values in itertools.product(*spans)
    ]


def test_folds_are_short():
    names = [f"layers.{i}.{p}.{w}" for i in range(8) for p in "qk" for w in ("weight", "bias")]
    assert list(fold(names)) == [f"layers.{{0..7}}.{p}.{w}" for p in "qk" for w in ("weight", "bias")]
    assert fold_line([f"x.{n}" for n in (0, 1, 2, 5, 7, 8)]) == "x.{0..2,5,7,8}"
    assert fold_line([f"{c}x" for c in "abcdefgh"]) == "ax, bx, cx, dx, ex, fx and 2 more"
    assert list(fold(["x.0.1", "x.1.0"])) == ["x.0.1", "x.1.0"], "never {0..1}.{0..1}, which would be four"


_SHIPPED = [path.read_text("utf-8") for path in sorted(mappings_folder().glob("*.yaml"))]
_SCRAPS = [
    "{i}", "[o i]", "(h d)", "...", "-", "?", ":", "*", "&a", "{", "}", "[", "]", "!!int ", "!", "|", ">", "'", '"',
    "\t", "\n", "  ", "drop", "tensors:\n", "1e-5", "0..", "9..3", "{2*j+k}", "~", "#", "<<", "null", "yes", "? ", "- ",
    "\x00", "\x85", "\ufeff", "é", "²", "99999999999999999999", "0x1F", "2021-02-30", "1:30", "%YAML 1.2", "---",
]  # fmt: skip


def _faults(text):
    """What a text is refused with; nothing if it is sound."""
    try:
        assert parse_mapping(text.encode(), Path("text.yaml")).rules
    except MappingError as error:
        return error.faults
    return ()


@st.composite
def broken(draw):
    """A shipped file with something put in, cut out, doubled or moved."""
    text = draw(st.sampled_from(_SHIPPED))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 40)))
        match draw(st.integers(0, 3)):
            case 0:
                text = text[:start] + draw(st.sampled_from(_SCRAPS)) + text[start:]
            case 1:
                text = text[:start] + text[stop:]
            case 2:
                text = text[:stop] + text[start:]
            case _:
                text = text[:start] + draw(st.text(max_size=4)) + text[stop:]
    return text


@settings(max_examples=150)
@given(broken())
def test_broken_text_raises_nothing_but_a_mapping_error(text):
    faults = _faults(text)
    assert all(fault.place is not None for fault in faults)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_a_mapping_error(data):
    with pytest.raises(MappingError):
        parse_mapping(data, Path("bytes.yaml"))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 5000, "a: " + "[" * 20_000 + "]" * 20_000]
)
def test_bottomless_nesting(text):
    with pytest.raises(MappingError):
        parse_mapping(text.encode(), Path("deep.yaml"))


@pytest.mark.parametrize(
    "line",
    [
        ".".join(["a"] * 20_000) + ": " + "/".join(["a"] * 20_000),
        "'w" + " " * 200_000 + "': w",
        "'w [" + " a" * 50_000 + "]': w [a]",
        "'" + "{i}" * 5000 + "': w",
        "'w{" + "9" * 10_000 + "*i}': w",
        "'w [" + "(" * 50_000 + "]': w",
    ],
    ids=["segments", "spaces", "axes", "holes", "digits", "parentheses"],
)
def test_long_lines_are_no_danger(line):
    text = f"mapping: long/1\nindex: {{i: 0..}}\ntensors:\n  {line}\n"
    assert len(_faults(text)) in (0, 1)


def test_endless_products_are_refused():
    names = "".join(f"{{{c}}}" for c in "abcdef")
    text = (
        "mapping: p/1\nindex: {" + ", ".join(f"{c}: 0..9" for c in "abcdef") + f"}}\ntensors:\n  '{names}': '{names}'\n"
    )
    with pytest.raises(MappingError, match="stands for more than 100000 names"):
        parse_mapping(text.encode(), Path("p.yaml"))

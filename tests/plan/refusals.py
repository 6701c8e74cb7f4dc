"""Refusals that no fixture file can show: what is asked for, not what a file says."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from headers import headers

from loftr2flax.mapping import load_mapping, parse_mapping
from loftr2flax.mapping.axes import parse_layout
from loftr2flax.plan import Wishes, build_plan, run_move

FC = parse_mapping(b"mapping: fc/1\ndense: {fc: fc}\n", Path("fc.yaml"))
TIED = parse_mapping(b"mapping: tied/1\ntied: {j: [0, 1]}\ntensors:\n  w [c]: w_{j} [c]\n", Path("tied.yaml"))
BELOW = parse_mapping(b"mapping: below/1\nsource: {at: coarse}\ndense: {fc: fc}\n", Path("below.yaml"))
NET = "m.fc.weight 3 4, m.fc.bias 3, other 2"


def _plan(mapping, tensors, direction="forward", **wishes):
    return build_plan(mapping, headers(tensors), direction, Wishes(**wishes), "net")


def _run(move, **arrays):
    return run_move(move, arrays.__getitem__)


def _unreadable():
    with patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")):
        load_mapping("loftr")


def _incomplete():
    with patch.object(Path, "is_file", return_value=False):
        load_mapping("loftr")


def _differing():
    (move,) = _plan(TIED, "w_0 2, w_1 2", "reverse").moves
    _run(move, w_0=np.array([0.0, 1.0], "f4"), w_1=np.array([-0.0, 1.0], "f4"))


def _overflowing():
    (move,) = _plan(TIED, "w_0 2, w_1 2", "reverse", dtype="float16", choose={"j": 1}).moves
    _run(move, w_1=np.array([1.0, 1e6], "f4"))


Refusal = tuple[Callable[[], object], str, str, str]
REFUSALS: dict[str, Refusal] = {
    "no_such_file": (
        lambda: load_mapping("my/vit.yaml"),
        "MissingInput",
        "my/vit.yaml: no such mapping file",
        "`loftr2flax mapping list` names the shipped ones",
    ),
    "no_such_name": (
        lambda: load_mapping("loftr_corse"),
        "MissingInput",
        "loftr_corse: no mapping of that name ships with loftr2flax",
        "did you mean 'loftr_coarse'?",
    ),
    "no_name_near": (
        lambda: load_mapping("resnet50"),
        "MissingInput",
        "resnet50: no mapping of that name ships with loftr2flax",
        "the shipped ones are ifvit_jax, loftr, loftr_coarse; a file of your own ends in .yaml",
    ),
    "unreadable": (_unreadable, "EnvironmentFault", "loftr.yaml: cannot be read: Permission denied", ""),
    "incomplete": (
        _incomplete,
        "MissingInput",
        "loftr2flax: the folder of shipped mappings is missing",
        "install loftr2flax again",
    ),
    "too_large": (
        lambda: parse_mapping(b"#" * (4 << 20) + b"\n", Path("huge.yaml")),
        "MappingError",
        "huge.yaml: one fault\n  huge.yaml:1:1: larger than 4 MiB",
        "`loftr2flax mapping check` shows them again; mappings/README.md is the manual",
    ),
    "no_brackets": (lambda: parse_layout("o i"), "NameSyntaxError", "'o i' is not a list of axes in brackets", ""),
    "nothing_known": (
        lambda: _plan(BELOW, "a.b 2, c 3"),
        "MappingMismatch",
        "net: none of its 2 names is one that the mapping knows under 'coarse'",
        "`loftr2flax mapping list` names the mappings, `inspect` shows the file",
    ),
    "two_places": (
        lambda: _plan(FC, "model.fc.weight 3 4, ema.fc.weight 3 4"),
        "MappingMismatch",
        "net: the mapping fits in 2 places: model, ema",
        "say which: `--prefix model`",
    ),
    "another_place": (
        lambda: _plan(BELOW, "m.fine.fc.weight 3 4, m.head 2"),
        "MappingMismatch",
        "net: it has no 'coarse'; what the mapping names stands at 'm.fine'",
        "if that is meant, say so: `--prefix m.fine`",
    ),
    "nothing_under_prefix": (
        lambda: _plan(FC, NET, prefix="n"),
        "PrefixNotFound",
        "net: --prefix n: no tensor is there; what the mapping names was found at 'm'",
        "--prefix m",
    ),
    "other_tensors_under_prefix": (
        lambda: _plan(FC, NET, prefix="m.fc"),
        "PrefixNotFound",
        "net: --prefix m.fc: the tensors there are not the mapping's; what the mapping names was found at 'm'",
        "--prefix m",
    ),
    "found_at_the_top": (
        lambda: _plan(FC, "fc.weight 3 4", prefix="m"),
        "PrefixNotFound",
        "net: --prefix m: no tensor is there; what the mapping names was found at the top of the file",
        "--prefix ''",
    ),
    "no_dtype": (
        lambda: _plan(FC, NET, dtype="float15"),
        "UsageError",
        "--dtype float15: not a floating-point type",
        "did you mean 'float16'?",
    ),
    "no_floating_dtype": (
        lambda: _plan(FC, NET, dtype="q8"),
        "UsageError",
        "--dtype q8: not a floating-point type",
        "one of float64, float32, float16, bfloat16, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, "
        "float8_e5m2fnuz, float8_e8m0fnu",
    ),
    "choice_of_nothing": (
        lambda: _plan(FC, NET, choose={"j": 0}),
        "UsageError",
        "--choose j=0: j is no tied index",
        "fc/1 ties nothing",
    ),
    "choice_of_another": (
        lambda: _plan(TIED, "w 2", choose={"i": 0}),
        "UsageError",
        "--choose i=0: i is no tied index",
        "tied/1 ties j",
    ),
    "choice_of_no_value": (
        lambda: _plan(TIED, "w 2", choose={"j": 2}),
        "UsageError",
        "--choose j=2: no such value",
        "j is one of 0, 1",
    ),
    "copies_differ": (
        _differing,
        "CopiesDiffer",
        "w_0 and w_1 differ, and 'w [c]: w_{j} [c]' makes them one tensor",
        "take one side: `--choose j=0`",
    ),
    "cast_overflows": (
        _overflowing,
        "InputError",
        "w: a finite number of float32 is out of the range of float16",
        "choose a --dtype of wider range, such as bfloat16 or float32",
    ),
}
"""What is done, the error's class, how its message ends, and its hint."""

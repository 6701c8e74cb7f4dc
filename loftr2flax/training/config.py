"""What a run is made of: one frozen value for each module, from YAML and flags, every value checked."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from loftr2flax.errors import MissingInput, UsageError


def _setting(
    default: Any, about: str, *, least: float | None = None, most: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    return field(default=default, metadata={"about": about, "least": least, "most": most, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """What both modules have in common. A value that a run cannot have is a `UsageError` that names its field."""

    command: ClassVar[str] = "loftr2flax train"
    start: ClassVar[str] = ""
    """The field that names the weights at the start."""

    dataset_root: str = _setting("", "folder of images; empty for synthetic prints")
    synthetic: str = _setting("prints", "what is made where there is no folder", choices=("prints", "scenes", "both"))
    num_prints: int = _setting(64, "synthetic identities", least=1)
    image_size: tuple[int, int] = _setting(
        (128, 128), "height and width in pixels; also N, or HxW", least=32, most=4096
    )
    pairs_per_epoch: int = _setting(256, "pairs drawn in an epoch, a folder of any size", least=1)
    rotation: float = _setting(60.0, "degrees to either side", least=0, most=180)
    elastic: float = _setting(1.0, "1 bends by up to 3 % of the image", least=0, most=4)
    perspective: float = _setting(0.0, "how far a homography tilts, in parts of the image", least=0, most=0.5)
    noise: float = _setting(1.0, "strength of the three noise models", least=0, most=1)
    imposters: float = _setting(0.25, "share of pairs of two identities", least=0, most=0.9)
    batch_size: int = _setting(8, "pairs in a step, over all devices and processes", least=1)
    num_epochs: int = _setting(10, "epochs", least=1)
    lr: float = _setting(1e-3, "highest learning rate", least=1e-12, most=10)
    warmup_epochs: float = _setting(
        0.5, "epochs until the learning rate is there; then a cosine to a hundredth", least=0
    )
    weight_decay: float = _setting(1e-4, "AdamW's, on matrices alone", least=0, most=10)
    clip_norm: float = _setting(1.0, "largest norm of the gradient", least=1e-6)
    freeze: tuple[str, ...] = _setting((), "parts that stay as they are, such as backbone")
    lr_scale: tuple[str, ...] = _setting((), "parts that learn at another rate, such as loftr_coarse=0.1")
    precision: str = _setting("float32", "what the network computes in", choices=("float32", "bfloat16"))
    transformer_layers: int = _setting(4, "encoder layers, self and cross in turn", least=1, most=64)
    num_heads: int = _setting(8, "attention heads", least=1)
    hidden_dim: int = _setting(256, "width of the transformer", least=4)
    backbone_dims: tuple[int, ...] = _setting(
        (), "widths of the backbone's levels; empty to follow hidden_dim", least=1
    )
    stride: int = _setting(8, "pixels from one cell to the next, 8 or 16", choices=("8", "16"))
    use_loftr: bool = _setting(True, "LoFTR's transformer, or else the generic SiameseTransformer")
    attention_type: str = _setting("linear", "of LoFTR's transformer", choices=("linear", "full"))
    sublayers: str = _setting("shared", "one layer for both images, or one for each", choices=("shared", "separate"))
    layer_norm_eps: float = _setting(1e-5, "epsilon of every LayerNorm", least=1e-12, most=1e-2)
    batch_norm_eps: float = _setting(1e-5, "epsilon of every BatchNorm", least=1e-12, most=1e-2)
    temp_bug_fix: bool = _setting(False, "position encoding of the paper instead of the published code's")
    temperature: float = _setting(0.1, "of the dual softmax", least=1e-3, most=10)
    state_dict: str = _setting("", "which dict of a torch file starts the run, e.g. model_ema; empty to choose")
    prefix: str = _setting("", "where a LoFTR's names begin in that dict; empty to find it")
    eval_pairs: int = _setting(32, "held-out pairs of the evaluation", least=1)
    eval_pixels: float = _setting(8.0, "a correspondence within so many pixels is correct", least=0.1)
    checkpoint_dir: str = _setting("checkpoints", "where checkpoints, metrics and weights go")
    save_every: int = _setting(1, "epochs between checkpoints", least=1)
    keep: int = _setting(2, "checkpoints that are kept", least=1)
    log_every: int = _setting(10, "steps between lines of metrics", least=1)
    seed: int = _setting(0, "of weights and data", least=0, most=2**31 - 1)
    workers: int = _setting(2, "threads that make pairs", least=1, most=256)

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))
        if self.hidden_dim % self.num_heads:
            raise UsageError(
                f"num_heads={self.num_heads} does not divide hidden_dim={self.hidden_dim}", "choose one that does"
            )
        if self.hidden_dim % 4:
            raise UsageError(f"hidden_dim={self.hidden_dim}: the position encoding needs a multiple of 4", "choose one")
        if not self.checkpoint_dir:
            raise UsageError("checkpoint_dir is empty: files have to go somewhere", "name a folder; `.` is this one")
        self._check_start()
        levels = 3 if self.stride == 8 else 4
        if self.backbone_dims and (len(self.backbone_dims) != levels or self.backbone_dims[-1] != self.hidden_dim):
            dims = ",".join(map(str, self.backbone_dims))
            hint = f"stride {self.stride} has {levels} levels, and the last is as wide as hidden_dim"
            raise UsageError(
                f"backbone_dims={dims}: does not fit stride={self.stride} and hidden_dim={self.hidden_dim}", hint
            )
        if any(side % self.stride for side in self.image_size):
            raise UsageError(f"image_size={_spelled(self.image_size)}: is no multiple of {self.stride}", "choose one")
        for entry in self.lr_scale:
            part, _, scale = entry.partition("=")
            if not part or not _is_number(scale) or float(scale) < 0:
                raise UsageError(f"lr_scale={entry}: not a part and its factor", "such as loftr_coarse=0.1")
            if [other.partition("=")[0] for other in self.lr_scale].count(part) > 1:
                raise UsageError(f"lr_scale={_spelled(self.lr_scale)}: {part} comes twice", "keep one of them")
            still = [held for held in self.freeze if f"{part}/".startswith(f"{held.strip('/')}/")]
            if still:
                raise UsageError(f"lr_scale={entry}: freeze={still[0]} holds it still", "leave out one of them")

    def _check_start(self) -> None:
        """What is said of the weights at the start makes no sense without them."""
        if getattr(self, self.start, ""):
            return
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in ("state_dict", "prefix", "loftr_parts", "loftr_layers") and value != one.default:
                flag = f"--{self.start.replace('_', '-')}"
                raise UsageError(f"{one.name}={value}: no weights are given to start from", f"`{flag}` names them")

    @classmethod
    def from_sources(cls, path: Path | None, changes: Mapping[str, Any]) -> Self:
        """The defaults, overruled by a YAML file, overruled by ``changes``.

        Raises:
          MissingInput: there is no such file.
          UsageError: it is no YAML mapping, a key is unknown or comes twice, or a value cannot be.
        """
        values = {} if path is None else _read_yaml(path)
        values = {**values, **changes}
        known = {one.name for one in fields(cls)}
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"`{cls.command} --show-config` lists all keys"
                raise UsageError(f"{f'{path}: ' if path else ''}{name}: no such key of the config", hint)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The values as JSON has them; `from_sources` takes them back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and meaning of every field, as people read them."""
        return [(one.name, _spelled(getattr(self, one.name)) or "-", one.metadata["about"]) for one in fields(self)]


@dataclass(frozen=True)
class DenseConfig(TrainConfig):
    """Module 1: dense registration."""

    command: ClassVar[str] = "loftr2flax train dense"
    start: ClassVar[str] = "loftr_pretrained_ckpt"

    loftr_pretrained_ckpt: str = _setting("", "weights that start the run: one of our outputs, or a torch checkpoint")
    loftr_parts: str = _setting(
        "all", "what is taken from them: transformer, backbone, or all", choices=("transformer", "backbone", "all")
    )
    loftr_layers: int = _setting(0, "take only the first so many layers; 0 demands that all fit", least=0)
    fine: bool = _setting(False, "LoFTR's fine stage too, with its loss")
    fine_layers: int = _setting(2, "layers of the fine stage", least=1)


@dataclass(frozen=True)
class MatchConfig(TrainConfig):
    """Module 2: fixed-length embeddings, from a trained Module 1."""

    command: ClassVar[str] = "loftr2flax train match"
    start: ClassVar[str] = "dense_weights"

    dense_weights: str = _setting("", "weights that Module 1's training wrote; empty for a random start")
    embedding_dim: int = _setting(128, "length of each branch's embedding", least=2)
    roi: float = _setting(0.6, "side of the region of interest, in parts of the image", least=0.2, most=1)
    lambda_D: float = _setting(0.5, "weight of the dense registration loss", least=0)
    lambda_E: float = _setting(0.1, "weight of the cosine loss of two embeddings", least=0)
    cosine_margin: float = _setting(0.4, "imposters are pushed apart to this cosine", least=-1, most=1)
    arcface_margin: float = _setting(0.3, "angle in radians", least=0, most=1.5)
    arcface_scale: float = _setting(16.0, "scale of the cosines", least=1)
    imposters: float = _setting(0.5, "share of pairs of two identities", least=0, most=0.9)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingInput(f"{path}: no such config", "check the path")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # bytes that are no text, 2026-13-45, 5,000 digits, `!!bool perhaps`, `!!timestamp soon`
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{path}: not YAML: {first}", "`key: value` on each line") from None
    if value is None:
        return {}
    if not isinstance(value, dict) or not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}: not a mapping of names to values", "`key: value` on each line")
    keys = [key.value for key, _ in node.value]
    if twice := [key for n, key in enumerate(keys) if key in keys[:n]]:
        raise UsageError(f"{path}: {twice[0]} comes twice", "keep one of them")
    return value


def _checked(one: Any, value: Any) -> Any:
    """The value in its field's own type."""
    default = one.default if one.default is not MISSING else None
    value = "" if value is None else value
    told, meta = f"{one.name}={_spelled(value)}", one.metadata
    if meta["choices"]:
        if str(value) not in meta["choices"]:
            raise UsageError(f"{told}: not one of {', '.join(meta['choices'])}", "choose one of them")
        return int(value) if isinstance(default, int) else str(value)
    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false"):
            raise UsageError(f"{told}: neither true nor false", meta["about"])
        return str(value).lower() == "true"
    if isinstance(default, str):
        if not isinstance(value, str):
            raise UsageError(f"{told}: not a text", "in YAML, put it in quotes")
        return value
    if isinstance(default, tuple):
        return _checked_tuple(one, value, told)
    if isinstance(value, bool) or not _is_number(value):
        raise UsageError(f"{told}: not a number", meta["about"])
    number = float(value)
    if isinstance(default, int) and number != int(number):
        raise UsageError(f"{told}: not a whole number", meta["about"])
    _check_range(told, number, meta)
    return int(number) if isinstance(default, int) else number


def _checked_tuple(one: Any, value: Any, told: str) -> tuple[Any, ...]:
    if isinstance(value, bool) or not isinstance(value, str | int | float | list | tuple):
        raise UsageError(f"{told}: not a list", one.metadata["about"])
    if one.name in ("freeze", "lr_scale"):
        if isinstance(value, int | float):
            raise UsageError(f"{told}: not a list of parts", one.metadata["about"])
        entries = value.split(",") if isinstance(value, str) and value else value or ()
        return tuple(str(entry).strip() for entry in entries)
    parts = str(value).replace("x", ",").split(",") if isinstance(value, str | int | float) else list(value)
    parts = [part for part in parts if str(part).strip()]
    if one.name == "image_size" and len(parts) == 1:
        parts = parts * 2
    if not all(_is_number(part) and float(part) == int(float(part)) for part in parts):
        raise UsageError(f"{told}: not whole numbers", one.metadata["about"])
    if one.name == "image_size" and len(parts) != 2:
        raise UsageError(f"{told}: a size has height and width", "such as 96x128")
    numbers = tuple(int(float(part)) for part in parts)
    for number in numbers:
        _check_range(told, number, one.metadata)
    return numbers


def _check_range(told: str, number: float, meta: Mapping[str, Any]) -> None:
    least, most = meta["least"], meta["most"]
    if not math.isfinite(number) or (least is not None and number < least) or (most is not None and number > most):
        limits = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
        raise UsageError(f"{told}: out of range", f"it is {limits}")


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(str(value)))
    except ValueError:
        return False


def _spelled(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)

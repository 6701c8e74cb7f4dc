"""What a LoFTR is made of: one frozen value, five presets, and what a checkpoint's shapes say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self

LayerName = Literal["self", "cross"]


class HasShape(Protocol):
    """Anything with a shape: a `LeafInfo`, an array, a `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...


@dataclass(frozen=True)
class LoFTRConfig:
    """The network and its thresholds.

    >>> LoFTRConfig.outdoor_ds().coarse_dim
    256
    >>> LoFTRConfig.indoor_ds_new() == LoFTRConfig.indoor_ds(temp_bug_fix=True)
    True

    Attributes:
      resolution: pixels per cell of the coarse and of the fine feature map, (8, 2) or (16, 4).
      block_dims: channels of the residual levels, finest first: three for (8, 2), four for (16, 4). The first
        convolution has as many as the first level, which adds its input to its output.
      coarse_layers: what each coarse encoder layer attends to, itself or the other image.
      fine: whether there is a fine stage; a coarse-only network gives the centres of coarse cells.
      fine_layers: the same as `coarse_layers` for the fine windows.
      fine_window: side of a fine window, in fine cells; odd.
      fine_concat_coarse: whether the transformed coarse feature is merged into its fine window.
      heads: attention heads, coarse and fine.
      attention: "linear" (elu + 1 kernel) or "full" (softmax).
      attention_eps: added to the denominator of linear attention.
      layer_norm_eps: epsilon of every LayerNorm; torch's 1e-5, not Flax's 1e-6.
      batch_norm_eps: epsilon of every BatchNorm.
      temp_bug_fix: position encoding with the frequencies of the paper (True) or of the published code (False).
      matching: "dual_softmax", or "sinkhorn" (optimal transport with a dustbin).
      temperature: what similarities are divided by before the dual softmax.
      sinkhorn_iterations: iterations of optimal transport.
      sinkhorn_prefilter: whether a cell that prefers the dustbin loses its matches. The optimal transport models were
        evaluated without (`SKH_PREFILTER` in the official `src/config/default.py`); the demo's own config says with.
      threshold: a match has a confidence above it.
      border: coarse cells at the border of an image that match nothing.
      capacity: how many matches a call returns at most, over the whole batch; None for as many as there can be.
      separate_sublayers: False for one encoder layer that serves both images (`layers_3`), True for one per image
        (`layers.3.0`, `layers.3.1`), the layout of IFViT-JAX.
      dtype: what the network computes in, "float32" or "bfloat16"; parameters, similarities and coordinates stay
        float32.
    """

    resolution: tuple[int, int] = (8, 2)
    block_dims: tuple[int, ...] = (128, 196, 256)
    coarse_layers: tuple[LayerName, ...] = ("self", "cross") * 4
    fine: bool = True
    fine_layers: tuple[LayerName, ...] = ("self", "cross")
    fine_window: int = 5
    fine_concat_coarse: bool = True
    heads: int = 8
    attention: Literal["linear", "full"] = "linear"
    attention_eps: float = 1e-6
    layer_norm_eps: float = 1e-5
    batch_norm_eps: float = 1e-5
    temp_bug_fix: bool = False
    matching: Literal["dual_softmax", "sinkhorn"] = "dual_softmax"
    temperature: float = 0.1
    sinkhorn_iterations: int = 3
    sinkhorn_prefilter: bool = False
    threshold: float = 0.2
    border: int = 2
    capacity: int | None = None
    separate_sublayers: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        levels = {(8, 2): 3, (16, 4): 4}.get(self.resolution)
        if levels is None:
            raise ValueError(f"resolution is (8, 2) or (16, 4), not {self.resolution}")
        if len(self.block_dims) != levels:
            raise ValueError(
                f"resolution {self.resolution} has {levels} levels, block_dims names {len(self.block_dims)}"
            )
        for name, width in (("coarse", self.coarse_dim), ("fine", self.fine_dim)):
            if width % self.heads and (name == "coarse" or self.fine):
                raise ValueError(f"{self.heads} heads do not divide the {name} width {width}")
        if self.coarse_dim % 4:
            raise ValueError(f"the position encoding needs a coarse width that 4 divides, not {self.coarse_dim}")
        if self.fine_window % 2 == 0:
            raise ValueError(f"fine_window has a centre cell only if it is odd, not {self.fine_window}")

    @property
    def coarse_dim(self) -> int:
        """Channels of the coarse features, C̃ in the paper."""
        return self.block_dims[-1]

    @property
    def fine_dim(self) -> int:
        """Channels of the fine features, Ĉ in the paper."""
        return self.block_dims[-3]

    @property
    def fine_stride(self) -> int:
        """Fine cells from one coarse cell to the next."""
        return self.resolution[0] // self.resolution[1]

    @classmethod
    def outdoor_ds(cls, **changes: Any) -> Self:
        """`outdoor_ds.ckpt`: MegaDepth, dual softmax."""
        return cls(**changes)

    @classmethod
    def indoor_ds(cls, **changes: Any) -> Self:
        """`indoor_ds.ckpt`: ScanNet, dual softmax. The network is that of `outdoor_ds`; the weights differ."""
        return cls(**changes)

    @classmethod
    def indoor_ds_new(cls, **changes: Any) -> Self:
        """`indoor_ds_new.ckpt`: ScanNet, trained with the corrected position encoding."""
        return cls(**{"temp_bug_fix": True} | changes)

    @classmethod
    def outdoor_ot(cls, **changes: Any) -> Self:
        """`outdoor_ot.ckpt`: MegaDepth, optimal transport."""
        return cls(**{"matching": "sinkhorn"} | changes)

    @classmethod
    def indoor_ot(cls, **changes: Any) -> Self:
        """`indoor_ot.ckpt`: ScanNet, optimal transport."""
        return cls(**{"matching": "sinkhorn"} | changes)

    @classmethod
    def from_checkpoint(cls, infos: Mapping[str, HasShape], facts: Mapping[str, Any] | None = None) -> Self:
        """The config that a checkpoint's shapes show, completed and overruled by ``facts``.

        The shapes show widths, depths, resolution, the fine stage, the dustbin and whether sublayers are shared. They
        show neither heads nor epsilons nor attention type nor `temp_bug_fix`: these are facts.

        Args:
          infos: leaves by name, torch keys (``matcher.backbone.bn1.weight``) or Flax paths
            (``params/backbone/bn1/scale``).
          facts: values of fields of this class; lists are taken for tuples.

        Raises:
          ValueError: no LoFTR backbone is among the leaves, or a fact names no field.
        """
        facts = {name: tuple(v) if isinstance(v, list) else v for name, v in (facts or {}).items()}
        if unknown := sorted(facts.keys() - {f.name for f in fields(cls)}):
            raise ValueError(f"no such fact of a LoFTR: {', '.join(unknown)}")
        return replace(cls(), **_seen(_Shapes(infos)) | facts)


class _Shapes:
    """Shapes by canonical name: dots only, indices as segments of their own, torch's and Flax's spelling made one."""

    def __init__(self, infos: Mapping[str, HasShape]) -> None:
        self._by_name = {"." + _canonical(name): tuple(info.shape) for name, info in infos.items()}

    def width(self, name: str) -> int | None:
        """Size of the vector whose name ends with ``name``, or None."""
        return next((shape[0] for full, shape in self._by_name.items() if full.endswith("." + name) and shape), None)

    def has(self, part: str) -> bool:
        """Whether a leaf's name holds ``part`` as whole segments."""
        return any(f".{part}." in full + "." for full in self._by_name)

    def count(self, pattern: str) -> int:
        """How many there are, from 0 without a gap, of ``pattern`` with a number in it."""
        n = 0
        while self.has(pattern.format(n)):
            n += 1
        return n


def _canonical(name: str) -> str:
    dotted = re.sub(r"_(\d+)(?=[/.]|$)", r".\1", name).replace("/", ".")
    return re.sub(r"(bn\d|norm\d|downsample\.1)\.weight$", r"\1.scale", dotted)


def _seen(shapes: _Shapes) -> dict[str, Any]:
    """The fields that shapes show. Vectors alone are read, so that no layout matters."""
    widths = [shapes.width(f"backbone.layer{level}.0.bn1.scale") for level in (1, 2, 3, 4)]
    block_dims = tuple(w for w in widths if w is not None)
    if len(block_dims) not in (3, 4):
        raise ValueError("these leaves hold no LoFTR backbone (backbone/layer1_0 … layer3_0)")
    pairs: tuple[LayerName, ...] = ("self", "cross")
    coarse, fine = shapes.count("loftr_coarse.layers.{}"), shapes.count("loftr_fine.layers.{}")
    seen: dict[str, Any] = {
        "resolution": (8, 2) if len(block_dims) == 3 else (16, 4),
        "block_dims": block_dims,
        "coarse_layers": (pairs * coarse)[:coarse],
        "fine": fine > 0,
        "fine_concat_coarse": shapes.has("fine_preprocess.down_proj") or fine == 0,
        "matching": "sinkhorn" if shapes.has("coarse_matching.bin_score") else "dual_softmax",
        "separate_sublayers": shapes.has("loftr_coarse.layers.0.0"),
    }
    if fine:
        seen["fine_layers"] = (pairs * fine)[:fine]
    return seen

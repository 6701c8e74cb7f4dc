"""The torch side: kornia's LoFTR (Apache-2.0) as the network to agree with.

The one module of `models` that imports torch; the package's others are in `parity.loftr`, loaded by a verdict alone.

`TorchLoFTR` speaks the language of `stages`: it takes and gives a *trace*, numpy arrays by stage name, in the layout
of the Flax network ([B, H, W, C] for maps, [B, L, C] for sequences), and it runs the whole or one stage alone, in
float32 or float64.

Where it is not kornia as it comes:

- the position encoding of a float64 network is computed in float64; kornia casts its float32 table;
- optimal transport, which kornia imports from a file that it does not ship, is written out below;
- masks reach the border removal at the resolution of coarse cells, as in the original; kornia passes them in pixels,
  so that with masks it removes no border at the bottom and on the right;
- maps at resolution (16, 4) are cropped on the way up where a size is odd; kornia refuses such sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from kornia.feature import LoFTR as KorniaLoFTR
from torch import Tensor, nn

from loftr2flax.models.loftr.config import LoFTRConfig
from loftr2flax.models.loftr.position import frequencies
from loftr2flax.models.loftr.stages import Trace, stage_names

OFF = 1e9
"""Similarities with padding are minus this."""


def kornia_config(config: LoFTRConfig) -> dict[str, Any]:
    """The same network in kornia's words. Matching is always a dual softmax there; see `TorchLoFTR.confidence`."""
    shared = {"nhead": config.heads, "attention": config.attention}
    return {
        "backbone_type": "ResNetFPN",
        "resolution": config.resolution,
        "fine_window_size": config.fine_window,
        "fine_concat_coarse_feat": config.fine_concat_coarse,
        "resnetfpn": {"initial_dim": config.block_dims[0], "block_dims": list(config.block_dims)},
        "coarse": shared
        | {
            "d_model": config.coarse_dim,
            "d_ffn": config.coarse_dim,
            "layer_names": list(config.coarse_layers),
            "temp_bug_fix": config.temp_bug_fix,
        },
        "match_coarse": {
            "thr": config.threshold,
            "border_rm": config.border,
            "match_type": "dual_softmax",
            "dsmax_temperature": config.temperature,
            "train_coarse_percent": 0.4,
            "train_pad_num_gt_min": 200,
        },
        "fine": shared
        | {"d_model": config.fine_dim, "d_ffn": config.fine_dim, "layer_names": list(config.fine_layers)},
    }


class TorchLoFTR:
    """kornia's LoFTR with given weights.

    Args:
      state_dict: torch keys, with or without ``matcher.`` in front; tensors or numpy arrays.
      config: what `LoFTRConfig.from_checkpoint` made of it.
      dtype: "float32" or "float64".

    Raises:
      ValueError: the weights are not those of such a network; missing and unexpected keys are listed.
    """

    def __init__(self, state_dict: Mapping[str, Any], config: LoFTRConfig, dtype: str = "float32") -> None:
        self.config = config
        self.dtype: torch.dtype = {"float32": torch.float32, "float64": torch.float64}[dtype]
        state = {key.removeprefix("matcher."): torch.as_tensor(value) for key, value in state_dict.items()}
        self.bin_score = state.pop("coarse_matching.bin_score", torch.tensor(1.0)).to(self.dtype)
        self.module = KorniaLoFTR(pretrained=None, config=kornia_config(config)).eval()
        missing, unexpected = self.module.load_state_dict(state, strict=False)
        fine = () if config.fine else ("fine_preprocess.", "loftr_fine.")
        missing = [key for key in missing if not key.startswith(fine)]
        if missing or unexpected:
            lines = [*(f"- {key}" for key in sorted(missing)), *(f"+ {key}" for key in sorted(unexpected))]
            raise ValueError("the weights do not fit the network (- missing, + unexpected)\n" + "\n".join(lines))
        self._set_epsilons()
        self.module.to(self.dtype)

    def _set_epsilons(self) -> None:
        module: Any
        for module in self.module.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.config.layer_norm_eps
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = self.config.batch_norm_eps
            elif type(module).__name__ == "LinearAttention":
                module.eps = self.config.attention_eps

    def trace(
        self,
        image0: np.ndarray,
        image1: np.ndarray,
        mask0: np.ndarray | None = None,
        mask1: np.ndarray | None = None,
        ids: np.ndarray | None = None,
    ) -> Trace:
        """Every stage, each fed with what this network made before it. Arguments as for `stages.trace`."""
        trace: Trace = {"image/0": image0, "image/1": image1}
        trace |= {name: mask for name, mask in (("mask/0", mask0), ("mask/1", mask1)) if mask is not None}
        if ids is not None:
            trace["ids"] = ids
        for name in stage_names(self.config):
            trace |= self.stage(name, trace)
        return trace

    def stage(self, name: str, trace: Mapping[str, Any]) -> Trace:
        """One stage from given inputs, as `stages.run_stage`."""
        with torch.no_grad():
            return {key: value.numpy() for key, value in self.tensors(name, trace).items()}

    def tensors(self, name: str, trace: Mapping[str, Any]) -> dict[str, Tensor]:
        """As `stage`, from and to tensors; gradients flow through tensors that require them."""
        stage, _, layer = name.partition("/layers.")
        if stage == "loftr_coarse":
            return self._layer("loftr_coarse", int(layer), trace, self._masks(trace))
        if stage == "loftr_fine":
            return self._layer("loftr_fine", int(layer), trace, (None, None))
        out: dict[str, Tensor] = getattr(self, f"_{stage}")(trace)
        return out

    def _get(self, trace: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor]:
        first, second = (torch.as_tensor(trace[f"{name}/{side}"]).to(self.dtype) for side in (0, 1))
        return first, second

    def _masks(self, trace: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """Masks of coarse cells, [B, L] and [B, S]."""
        stride = self.config.resolution[0]
        first, second = (
            torch.as_tensor(trace[f"mask/{side}"])[:, ::stride, ::stride].flatten(1).bool()
            if f"mask/{side}" in trace
            else None
            for side in (0, 1)
        )
        return first, second

    def _backbone(self, trace: Mapping[str, Any]) -> dict[str, Tensor]:
        out = {}
        for side, image in enumerate(self._get(trace, "image")):
            coarse, fine = self._pyramid(image.permute(0, 3, 1, 2))
            out[f"backbone/coarse/{side}"] = coarse.permute(0, 2, 3, 1)
            out[f"backbone/fine/{side}"] = fine.permute(0, 2, 3, 1)
        return out

    def _pyramid(self, image: Tensor) -> tuple[Tensor, Tensor]:
        net: Any = self.module.backbone
        if self.config.resolution == (8, 2) or not any(size % 16 for size in image.shape[2:]):
            coarse, fine = net(image)
            return coarse, fine
        x1 = net.layer1(net.relu(net.bn1(net.conv1(image))))
        x2 = net.layer2(x1)
        x3 = net.layer3(x2)
        coarse = net.layer4_outconv(net.layer4(x3))
        x3 = net.layer3_outconv2(net.layer3_outconv(x3) + _twice(coarse, x3))
        return coarse, net.layer2_outconv2(net.layer2_outconv(x2) + _twice(x3, x2))

    def _pos_encoding(self, trace: Mapping[str, Any]) -> dict[str, Tensor]:
        out = {}
        for side, features in enumerate(self._get(trace, "backbone/coarse")):
            if self.dtype == torch.float64:
                out[f"pos_encoding/{side}"] = features + self._position(*features.shape[1:3])
            else:
                encoded = self.module.pos_encoding(features.permute(0, 3, 1, 2))
                out[f"pos_encoding/{side}"] = encoded.permute(0, 2, 3, 1)
        return out

    def _position(self, height: int, width: int) -> Tensor:
        """The encoding in float64, [H, W, C]."""
        omega = torch.as_tensor(frequencies(self.config.coarse_dim, self.config.temp_bug_fix))
        x = torch.arange(1, width + 1, dtype=torch.float64)[None, :, None] * omega
        y = torch.arange(1, height + 1, dtype=torch.float64)[:, None, None] * omega
        parts = (x.sin(), x.cos(), y.sin(), y.cos())
        return torch.stack([part.expand(height, width, -1) for part in parts], -1).flatten(
            2
        )  # [H, W, C/4, 4] -> [H, W, C]

    def _layer(
        self, stage: str, i: int, trace: Mapping[str, Any], masks: tuple[Tensor | None, Tensor | None]
    ) -> dict[str, Tensor]:
        before = {"loftr_coarse": "pos_encoding", "loftr_fine": "fine_preprocess"}[stage]
        feat0, feat1 = self._get(trace, f"{stage}/layers.{i - 1}" if i else before)
        if feat0.ndim == 4:
            feat0, feat1 = feat0.flatten(1, 2), feat1.flatten(1, 2)  # [B, H, W, C] -> [B, L, C]
        if not len(feat0):  # no matches, no windows; kornia asks before it calls
            return {f"{stage}/layers.{i}/0": feat0, f"{stage}/layers.{i}/1": feat1}
        transformer: Any = getattr(self.module, stage)
        layer, mask0, mask1 = transformer.layers[i], *masks
        if transformer.layer_names[i] == "self":
            feat0, feat1 = layer(feat0, feat0, mask0, mask0), layer(feat1, feat1, mask1, mask1)
        else:
            feat0 = layer(feat0, feat1, mask0, mask1)
            feat1 = layer(feat1, feat0, mask1, mask0)
        return {f"{stage}/layers.{i}/0": feat0, f"{stage}/layers.{i}/1": feat1}

    def _conf_matrix(self, trace: Mapping[str, Any]) -> dict[str, Tensor]:
        """The confidence matrix and, unless the trace has matches already, the matches."""
        feat0, feat1 = self._get(trace, f"loftr_coarse/layers.{len(self.config.coarse_layers) - 1}")
        mask0, mask1 = self._masks(trace)
        data = self._coarse_data(trace)
        if self.config.matching == "sinkhorn":
            data["conf_matrix"] = conf = self._transport(feat0, feat1, mask0, mask1)
            data |= self.module.coarse_matching.get_coarse_match(conf, data)
        else:
            self.module.coarse_matching(feat0, feat1, data, mask0, mask1)
        out = {"conf_matrix": data["conf_matrix"]}
        if "ids" not in trace:
            out["ids"] = torch.stack([data[key] for key in ("b_ids", "i_ids", "j_ids")]).int()
        return out

    def _coarse_data(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """What kornia's matching wants to know of the images; masks at the resolution of coarse cells."""
        data: dict[str, Any] = dict(zip(("stride_c", "stride_f"), self.config.resolution, strict=True))
        shapes = [trace[f"pos_encoding/{side}"].shape for side in (0, 1)]
        masks = self._masks(trace)
        for side, (shape, mask) in enumerate(zip(shapes, masks, strict=True)):
            data[f"hw{side}_c"] = shape[1:3]
            if any(m is not None for m in masks):
                grid = torch.ones(shape[:3], dtype=torch.bool) if mask is None else mask.reshape(shape[:3])
                data[f"mask{side}"] = grid
        return data

    def _transport(self, feat0: Tensor, feat1: Tensor, mask0: Tensor | None, mask1: Tensor | None) -> Tensor:
        """The confidence matrix of optimal transport, as the original with SuperGlue's solver has it."""
        similarity = torch.einsum("blc,bsc->bls", feat0, feat1) / feat0.shape[-1]
        valid = torch.ones_like(similarity, dtype=torch.bool)
        valid &= True if mask0 is None else mask0[:, :, None]
        valid &= True if mask1 is None else mask1[:, None, :]
        similarity = similarity.masked_fill(~valid, -OFF)
        plan = optimal_transport(similarity, self.bin_score, self.config.sinkhorn_iterations)
        conf = plan[:, :-1, :-1].masked_fill(~valid, 0.0)
        if self.config.sinkhorn_prefilter:
            lost0 = plan.argmax(2)[:, :-1, None] == plan.shape[2] - 1
            lost1 = plan.argmax(1)[:, None, :-1] == plan.shape[1] - 1
            conf = conf.masked_fill(lost0 | lost1, 0.0)
        return conf

    def _fine_data(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        data = self._coarse_data(trace)
        ids = torch.as_tensor(trace["ids"]).long()
        return data | dict(zip(("b_ids", "i_ids", "j_ids"), ids, strict=True))

    def _fine_preprocess(self, trace: Mapping[str, Any]) -> dict[str, Tensor]:
        fine0, fine1 = (fine.permute(0, 3, 1, 2) for fine in self._get(trace, "backbone/fine"))
        coarse0, coarse1 = self._get(trace, f"loftr_coarse/layers.{len(self.config.coarse_layers) - 1}")
        window0, window1 = self.module.fine_preprocess(fine0, fine1, coarse0, coarse1, self._fine_data(trace))
        return {"fine_preprocess/0": window0, "fine_preprocess/1": window1}

    def _expectation(self, trace: Mapping[str, Any]) -> dict[str, Tensor]:
        feat0, feat1 = self._get(trace, f"loftr_fine/layers.{len(self.config.fine_layers) - 1}")
        matches = feat0.shape[0]
        origin = feat0.new_zeros(matches, 2)
        data = self._fine_data(trace) | {"mkpts0_c": origin, "mkpts1_c": origin, "mconf": feat0.new_ones(matches)}
        self.module.fine_matching(feat0, feat1, data)
        return {"expectation": data["expec_f"]}


def optimal_transport(
    similarity: Tensor, bin_score: Tensor, iterations: int, dustbins: tuple[int, int] | None = None
) -> Tensor:
    """Sinkhorn's iteration in log space with a dustbin on either side: [B, L, S] → [B, L + 1, S + 1].

    ``dustbins`` is what they hold, by default S and L.
    """
    batch, rows, columns = similarity.shape
    z = bin_score.expand(batch, rows + 1, columns + 1).clone()
    z[:, :rows, :columns] = similarity
    mass0, mass1 = z.new_ones(rows + 1), z.new_ones(columns + 1)
    mass0[-1], mass1[-1] = dustbins or (columns, rows)
    total = rows + columns
    u, v = z.new_zeros(batch, rows + 1), z.new_zeros(batch, columns + 1)
    for _ in range(iterations):
        u = (mass0 / total).log() - (z + v[:, None, :]).logsumexp(2)
        v = (mass1 / total).log() - (z + u[:, :, None]).logsumexp(1)
    return (z + u[:, :, None] + v[:, None, :]).exp() * total


def _twice(x: Tensor, like: Tensor) -> Tensor:
    larger = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
    return larger[..., : like.shape[2], : like.shape[3]]

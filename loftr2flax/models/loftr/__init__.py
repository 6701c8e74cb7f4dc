"""LoFTR, "Detector-Free Local Feature Matching with Transformers" (arXiv 2104.00680), in Flax linen.

Names of the variables are those of the torch modules: a number is glued to the segment before it with ``_``, dots
become slashes, ``weight`` is ``kernel`` or ``scale``, running statistics are ``mean`` and ``var`` in the collection
``batch_stats``:

| torch | Flax |
|---|---|
| ``backbone.conv1.weight`` | ``params/backbone/conv1/kernel`` |
| ``backbone.bn1.{weight,bias}`` | ``params/backbone/bn1/{scale,bias}`` |
| ``backbone.bn1.running_{mean,var}`` | ``batch_stats/backbone/bn1/{mean,var}`` |
| ``backbone.layer2.0.conv1.weight`` | ``params/backbone/layer2_0/conv1/kernel`` |
| ``backbone.layer2.0.downsample.{0,1}`` | ``backbone/layer2_0/downsample_0`` (conv), ``downsample_1`` (norm) |
| ``backbone.layer3_outconv.weight`` | ``params/backbone/layer3_outconv/kernel`` |
| ``backbone.layer2_outconv2.{0,1,3}`` | ``backbone/layer2_outconv2_0`` (conv), ``_1`` (norm), ``_3`` (conv) |
| ``loftr_coarse.layers.3.q_proj.weight`` | ``params/loftr_coarse/layers_3/q_proj/kernel`` |
| ``loftr_coarse.layers.3.mlp.{0,2}.weight`` | ``params/loftr_coarse/layers_3/mlp_{0,2}/kernel`` |
| ``loftr_coarse.layers.3.norm1.weight`` | ``params/loftr_coarse/layers_3/norm1/scale`` |
| ``coarse_matching.bin_score`` | ``params/coarse_matching/bin_score``, with optimal transport only |
| ``fine_preprocess.down_proj.{weight,bias}`` | ``params/fine_preprocess/down_proj/{kernel,bias}`` |
| ``loftr_fine.layers.1.merge.weight`` | ``params/loftr_fine/layers_1/merge/kernel`` |

With ``separate_sublayers`` the two transformers have the names of IFViT-JAX, a layer for each image:
``layers.3.1/q_proj/kernel``, ``layers.3.1/mlp.0/kernel``. A coarse-only network has neither ``fine_preprocess`` nor
``loftr_fine``.

`stages` runs the network stage by stage, `reference` is the torch side (it imports torch, and is not imported here).
"""

from loftr2flax.models.loftr.config import LoFTRConfig as LoFTRConfig
from loftr2flax.models.loftr.matcher import LoFTR as LoFTR
from loftr2flax.models.loftr.matcher import Matches as Matches

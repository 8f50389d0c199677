"""Weights of the original recap, by the names of this one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Original name → ours, for a ranker whose inputs are called `featurization` and `embeddings`. An
# empty replacement drops what is a setting here and not a weight.
_RENAMED = (
    (r"_preprocessor\._before_concat_layers\.2\.layer\.", "inputs.featurization.batch_norm."),
    (r"_preprocessor\._before_concat_layers\.3\.(min|max)_value", ""),
    (r"_preprocessor\.layer_norm\.layer\.", "inputs.featurization.layer_norm."),
    (
        r"_(user|user_eng|author)_embedding_layer_norm\.",
        r"inputs.embeddings.layer_norms.\1_embedding.",
    ),
    (r"_backbone\._mask_blocks\.(\d+)\._", r"backbone.mask_blocks.\1."),
    (r"_backbone\._dense_layers\.", "backbone.mlp."),
    (r"_towers\.(?:recap__engagement__)?", "towers."),
    (r"_affine_maps\.(?:recap__engagement__)?", "affine_maps."),
    (r"_calibrators\..*", ""),
)


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a HeavyRanker with DoubleNormLog and MaskNet, out of the original's.

    Raises ValueError listing the entries that have no place here.
    """
    renamed, unknown = {}, []
    for name, tensor in state.items():
        bare = name.removeprefix("model.")
        for pattern, replacement in _RENAMED:
            ours, found = re.subn(f"^{pattern}", replacement, bare)
            if found:
                if replacement:
                    renamed[ours] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"no place for these weights of the original: {', '.join(unknown)}")
    return renamed

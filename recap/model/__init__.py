"""The heavy ranker and its parts, each under the name that a YAML node's ``_target_`` gives it."""

from recap.model.dcn import DCN
from recap.model.dlrm import DLRM
from recap.model.embeddings import EmbeddingTable, EmbeddingTables, LayerNormedEmbeddings
from recap.model.featurization import ClipLog1pAbs, DoubleNormLog, Log1pAbs
from recap.model.heavy_ranker import AffineMap, HeavyRanker, Task
from recap.model.mask_net import MaskBlock, MaskBlockConfig, MaskNet
from recap.model.mlp import MLP
from recap.model.norm import BatchNorm, LayerNorm
from recap.model.position_debias import PositionDebias
from recap.model.small_embeddings import SmallEmbeddings, SmallTable
from recap.model.z_score_log import ZScoreLog

__all__ = [
    "DCN",
    "DLRM",
    "MLP",
    "AffineMap",
    "BatchNorm",
    "ClipLog1pAbs",
    "DoubleNormLog",
    "EmbeddingTable",
    "EmbeddingTables",
    "HeavyRanker",
    "LayerNorm",
    "LayerNormedEmbeddings",
    "Log1pAbs",
    "MaskBlock",
    "MaskBlockConfig",
    "MaskNet",
    "PositionDebias",
    "SmallEmbeddings",
    "SmallTable",
    "Task",
    "ZScoreLog",
]

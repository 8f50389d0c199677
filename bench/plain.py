"""Rankers as one writes them at first in torch: what recap's step is measured beside.

local_prod, and the model of ids of ``bench.kuairand``. Layers one after the other, a loop over
blocks, tables and towers, a loss per task, ``torch.optim.Adam`` as it comes. Parameters are called
as recap's are, so that a ranker's weights load; the tests show that logits and gradients are the
same, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recap.batch import Batch
from recap.model import HeavyRanker
from recap.model.embeddings import EmbeddingTables
from recap.model.module_names import module_key

EMBEDDINGS = ("user_embedding", "user_eng_embedding", "author_embedding")
TABLES = "inputs.embeddings.collection.embedding_bags"
DROPOUT = {"is_negative_feedback_v2": 0.1, "is_report_tweet_clicked": 0.2}


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Numbers in and out of the layers; as they stand, the published model's."""

    continuous: int = 2117
    binary: int = 59
    embedding: int = 200
    mask: Sequence[int] = (1024,) * 4  # hidden layer of each block's mask
    block: Sequence[int] = (1024,) * 4  # output of each block
    top: int = 2048
    tower: Sequence[int] = (256, 128)


class PlainRanker(nn.Module):
    """Logits [B, T] of a batch: inputs, backbone and towers one after the other."""

    def __init__(
        self,
        inputs: Mapping[str, nn.Module],
        backbone: nn.Module,
        towers: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict(inputs)
        self.backbone = backbone
        self.towers = nn.ModuleDict(towers)

    def forward(self, batch: Batch) -> Tensor:
        """The logits, [B, T]."""
        features = torch.cat([layer(batch) for layer in self.inputs.values()], dim=1)
        shared = self.backbone(features)
        return torch.cat([tower(shared) for tower in self.towers.values()], dim=1)


def local_prod(tasks: Sequence[str], widths: Widths = Widths()) -> PlainRanker:
    """local_prod with a tower for each of the tasks."""
    width = widths.continuous + widths.binary + len(EMBEDDINGS) * widths.embedding
    return PlainRanker(
        {
            "featurization": Featurization(widths.continuous, widths.binary),
            "user_embeddings": Embeddings(widths.embedding),
        },
        ParallelMaskNet(width, widths),
        {task: Tower(widths.top, widths.tower, DROPOUT.get(task)) for task in tasks},
    )


class Featurization(nn.Module):
    """Continuous columns on a log scale and binary ones, if any, layer-normed together."""

    def __init__(self, continuous: int, binary: int, epsilon: float = 0.0) -> None:
        super().__init__()
        self.unchanged = ["binary"] if binary else []
        self.batch_norm = nn.BatchNorm1d(continuous, momentum=0.01)
        self.layer_norm = nn.LayerNorm(continuous + binary, eps=epsilon)

    def forward(self, batch: Batch) -> Tensor:
        """The features, [B, C + N]."""
        dtype = self.layer_norm.weight.dtype
        values = batch.dense["continuous"].to(dtype)
        values = torch.where(values.isfinite(), values, 0.0)
        logs = self.batch_norm(values.sign() * torch.log1p(values.abs())).clamp(-5.0, 5.0)
        others = [batch.dense[name].to(dtype) for name in self.unchanged]
        return self.layer_norm(torch.cat([logs, *others], dim=1))


class Tables(nn.Module):
    """An embedding table for each sparse feature of its name."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], means: Collection[str]) -> None:
        super().__init__()
        bags = {
            name: nn.EmbeddingBag(*size, mode="mean" if name in means else "sum")
            for name, size in sizes.items()
        }
        self.collection = nn.ModuleDict({"embedding_bags": nn.ModuleDict(bags)})

    def forward(self, batch: Batch) -> Tensor:
        """The pooled embeddings, [B, D]."""
        bags = self.collection["embedding_bags"]
        assert isinstance(bags, nn.ModuleDict)
        read = ((table, batch.sparse[name]) for name, table in bags.items())
        return torch.cat([table(bag.slots, bag.offsets[:-1]) for table, bag in read], dim=1)


class Embeddings(nn.Module):
    """The precomputed embeddings, each layer-normed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer_norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in EMBEDDINGS})

    def forward(self, batch: Batch) -> Tensor:
        """The embeddings, [B, 3 D]."""
        dtype = next(self.parameters()).dtype
        norms = self.layer_norms.items()
        return torch.cat([norm(batch.dense[name].to(dtype)) for name, norm in norms], dim=1)


class ParallelMaskNet(nn.Module):
    """Mask blocks side by side and a layer on top."""

    def __init__(self, in_features: int, widths: Widths) -> None:
        super().__init__()
        blocks = zip(widths.mask, widths.block, strict=True)
        self.mask_blocks = nn.ModuleList(MaskBlock(in_features, *block) for block in blocks)
        self.mlp = Layers(nn.Linear(sum(widths.block), widths.top), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """The backbone's output, [B, D]."""
        return self.mlp(torch.cat([block(features) for block in self.mask_blocks], dim=1))


class MaskBlock(nn.Module):
    """LayerNorm(hidden(x · mask(x)))."""

    def __init__(self, in_features: int, mask: int, out_features: int) -> None:
        super().__init__()
        self.mask_layer = nn.Sequential(
            nn.Linear(in_features, mask), nn.ReLU(), nn.Linear(mask, in_features)
        )
        self.hidden_layer = nn.Linear(in_features, out_features)
        self.layer_norm = nn.LayerNorm(out_features)

    def forward(self, features: Tensor) -> Tensor:
        """The block's output, [B, D]."""
        return self.layer_norm(self.hidden_layer(features * self.mask_layer(features)))


class Layers(nn.Module):
    """The layers, one behind the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """The last one's output."""
        return self.layers(features)


class Tower(Layers):
    """Hidden layers with batch norm, and the logit."""

    def __init__(self, in_features: int, hidden: Sequence[int], dropout: float | None) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.BatchNorm1d(width, affine=False)]
            layers += [nn.ReLU()] if dropout is None else [nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        super().__init__(*layers, nn.Linear(in_features, 1))


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the tasks of their binary cross entropies, []."""
    each = [
        binary_cross_entropy_with_logits(logits[:, task], labels[:, task])
        for task in range(logits.shape[1])
    ]
    return torch.stack(each).mean()


def plain_twin(ranker: HeavyRanker) -> PlainRanker:
    """Plain local_prod with the widths and the weights of a ranker of its form."""
    state = ranker.state_dict()
    twin = local_prod(ranker.tasks, _widths(state, ranker.tasks[0]))
    twin.load_state_dict(state)
    return twin


def plain_twin_of_ids(ranker: HeavyRanker) -> PlainRanker:
    """The plain model with the widths and the weights of the model of ids."""
    state = ranker.state_dict()
    tables = ranker.inputs["embeddings"]
    assert isinstance(tables, EmbeddingTables)
    sizes = {name: state[f"{TABLES}.{name}.weight"].shape for name in tables.settings}
    means = {name for name, table in tables.settings.items() if table.pooling == "mean"}
    continuous = len(state["inputs.featurization.batch_norm.weight"])
    first, second = (state[f"backbone.layers.{number}.weight"] for number in (0, 2))
    twin = PlainRanker(
        {
            "featurization": Featurization(continuous, 0, epsilon=1e-5),
            "embeddings": Tables(sizes, means),
        },
        Layers(nn.Linear(*first.shape[::-1]), nn.ReLU(), nn.Linear(*second.shape[::-1]), nn.ReLU()),
        {
            name: Layers(nn.Linear(len(second), hidden), nn.ReLU(), nn.Linear(hidden, 1))
            for name in map(module_key, ranker.tasks)
            for hidden in state[f"towers.{name}.layers.0.bias"].shape
        },
    )
    twin.load_state_dict(state)
    return twin


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Adam over the parameters, in the form that torch chooses by itself."""
    return torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.95, 0.999), eps=1e-7)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    autocast: AbstractContextManager = nullcontext(),  # noqa: B008
) -> None:
    """One update on the batch; the model runs within ``autocast``."""
    optimizer.zero_grad()
    with autocast:
        logits = model(batch)
    loss(logits.float(), batch.labels).backward()
    optimizer.step()


def _widths(state: Mapping[str, Tensor], task: str) -> Widths:
    """The widths of a ranker, by the shapes of its weights."""

    def outputs(prefix: str, suffix: str = ".weight") -> list[int]:
        found = (n for n in state if n.startswith(prefix) and n.endswith(suffix))
        return [state[name].shape[0] for name in found if state[name].ndim == 2]

    continuous = len(state["inputs.featurization.batch_norm.weight"])
    return Widths(
        continuous=continuous,
        binary=len(state["inputs.featurization.layer_norm.weight"]) - continuous,
        embedding=len(state[f"inputs.user_embeddings.layer_norms.{EMBEDDINGS[0]}.weight"]),
        mask=outputs("backbone.mask_blocks.", ".mask_layer.0.weight"),
        block=outputs("backbone.mask_blocks.", ".hidden_layer.weight"),
        top=outputs("backbone.mlp.")[0],
        tower=outputs(f"towers.{task}.")[:-1],
    )

"""The heavy ranker: one network that reads an impression and predicts every engagement with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model.contract import (
    embedded_columns,
    input_layer,
    network,
    out_width,
    read_by,
    start_at,
    tower_network,
)
from recap.model.embeddings import EmbeddingTables
from recap.model.engagement_rates import EngagementRates
from recap.model.module_names import module_key
from recap.model.outputs import Outputs
from recap.model.stratifiers import Stratifier
from recap.model.towers import Towers
from recap.schema import Schema

MultiTaskType = Literal["share_none", "share_all", "share_partial"]


@dataclass(frozen=True, kw_only=True)
class AffineMap:
    """Where a learned line over a task's logit starts: scale·logit + bias."""

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        faults = [
            f"affine_map: {name}={value} must be a finite number"
            for name, value in (("scale", self.scale), ("bias", self.bias))
            if not math.isfinite(value)
        ]
        if faults:
            raise ValueError("; ".join(faults))

    def start(self) -> nn.Linear:
        """The line as a 1×1 linear layer."""
        line = nn.Linear(1, 1)
        nn.init.constant_(line.weight, self.scale)
        nn.init.constant_(line.bias, self.bias)
        return line


@dataclass(frozen=True, kw_only=True)
class Task:
    """Settings of one task; ``tower`` builds its network over what it reads, see HeavyRanker.

    ``pos_weight`` weighs the positives' loss and ``loss_weight`` the task's among all tasks; the
    model only carries them. ``score_weight`` weighs the task's probability in the ranking score.
    ``initial_rate``, 0 to 1, is the probability that the untrained tower's last bias stands for, so
    that a rare task need not unlearn a half first (Lin et al., arXiv 1708.02002, section 4.1); None
    starts it at 0.
    """

    tower: Callable[[int, Sequence[slice]], nn.Module]
    pos_weight: float = 1.0
    loss_weight: float = 1.0
    score_weight: float = 0.0
    initial_rate: float | None = None
    affine_map: AffineMap | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.pos_weight < math.inf:
            raise ValueError(
                f"pos_weight={self.pos_weight} must be above 0 and finite; 1 weighs nothing"
            )
        if not 0.0 <= self.loss_weight < math.inf:
            raise ValueError(f"loss_weight={self.loss_weight} must be 0 or more and finite")
        if not math.isfinite(self.score_weight):
            raise ValueError(f"score_weight={self.score_weight} must be a finite number")
        if self.initial_rate is not None and not 0.0 < self.initial_rate < 1.0:
            raise ValueError(f"initial_rate={self.initial_rate} must lie between 0 and 1")
        if self.initial_rate is not None and self.affine_map is not None:
            raise ValueError("initial_rate and affine_map both say where a logit starts; give one")


class HeavyRanker(nn.Module):
    """Logits [B, T] of a batch, columns in the order of ``tasks``.

    ``inputs`` are built by ``build(schema, num_slots)``; their outputs [B, D], concatenated in the
    order of the mapping, are the features. An input, or a layer in it, says as ``reads`` which of
    the schema's inputs it takes from a batch; an input made of embedding vectors says their widths,
    ``embedding_dims``. ``backbone`` and each tower are built by ``build(in_features, embedded)``,
    where ``embedded`` are the columns of each embedding vector. All of them say their
    ``out_features``. What towers read is the ``multi_task_type``:

    - ``share_all``: the backbone's output, which has no embedding vectors;
    - ``share_partial``: the features, then the backbone's output, concatenated;
    - ``share_none``: the features; there is no backbone.

    ``stratifiers`` are the slices that an evaluation measures besides. With ``return_backbone`` the
    ``outputs`` hold what the shared network says.

    ``num_slots`` maps sparse features to the number of their slots, see EmbeddingTables. Raises
    ValueError with all faults that show at the same stage: settings, inputs, backbone and towers.
    """

    score_weights: Tensor  # [T] float64
    calibration: Tensor  # [T] float64, added to logits

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        multi_task_type: MultiTaskType,
        inputs: Mapping[str, Callable[..., nn.Module]],
        backbone: Callable[[int, Sequence[slice]], nn.Module] | None,
        tasks: Mapping[str, Task],
        stratifiers: Mapping[str, Stratifier] | None = None,
        return_backbone: bool = False,
    ) -> None:
        super().__init__()
        faults = _faults(multi_task_type, inputs, backbone, tasks)
        self.stratifiers = dict(stratifiers or {})
        for name, stratifier in self.stratifiers.items():
            faults += [f"model.stratifiers.{name}.{fault}" for fault in stratifier.faults(schema)]
        self.return_backbone = return_backbone
        if return_backbone and backbone is None:
            faults.append("model.return_backbone=true: there is no backbone; set it to false")
        self.inputs = nn.ModuleDict()
        for name, build in inputs.items():
            with _collect(faults, f"model.inputs.{name}"):
                self.inputs[module_key(name)] = input_layer(build(schema, num_slots))
        _refuse(faults + _tables_named_twice(self._tables()))

        bags = {*schema.sparse}
        self.bag_readers = tuple(key for key, layer in self.inputs.items() if read_by(layer) & bags)
        self.tasks = tuple(tasks)
        self.pos_weights = {name: task.pos_weight for name, task in tasks.items()}
        self.loss_weights = {name: task.loss_weight for name, task in tasks.items()}
        # Not persistent: they follow from the config, which a checkpoint must not bring back.
        scores = [task.score_weight for task in tasks.values()]
        for key, values in {"score_weights": scores, "calibration": [0.0] * len(tasks)}.items():
            self.register_buffer(key, torch.tensor(values, dtype=torch.float64), persistent=False)
        self.in_features: int = sum(out_width(layer) for layer in self.inputs.values())
        embedded = embedded_columns(self.inputs.values())
        self.backbone: nn.Module | None = None
        if backbone is not None:
            with _collect(faults, "model.backbone"):
                self.backbone = network(backbone(self.in_features, embedded))
        _refuse(faults)

        self.features_to_towers = multi_task_type != "share_all"
        width, seen = (self.in_features, embedded) if self.features_to_towers else (0, ())
        width += out_width(self.backbone) if self.backbone is not None else 0
        self.towers = Towers()
        self.affine_maps = nn.ModuleDict()
        for name, task in tasks.items():
            with _collect(faults, f"model.tasks.{name}"):
                tower = self.towers[module_key(name)] = tower_network(task.tower(width, seen))
                if task.initial_rate is not None:
                    start_at(task.initial_rate, tower)
                if task.affine_map is not None:
                    self.affine_maps[module_key(name)] = task.affine_map.start()
        _refuse(faults)

    def forward(self, batch: Batch, read: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits, [B, T] float32 under autocast too (float64 in a float64 model).

        ``read`` is what ``read_bags`` gave, where it was called before.
        """
        return self._logits_and_backbone(batch, {} if read is None else read)[0]

    def read_bags(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs [B, D] of the inputs that read bags of ids, by their key in ``inputs``.

        The numbers of ids differ from batch to batch. The rest of a forward pass has one size, B.
        """
        return {key: self.inputs[key](batch) for key in self.bag_readers}

    def outputs(self, batch: Batch) -> Outputs:
        """Everything the ranker says of the batch."""
        logits, backbone = self._logits_and_backbone(batch, {})
        calibrated = self.calibrated(logits).sigmoid()
        # not as a matrix product, which autocast would round to bfloat16
        score = (calibrated * self.score_weights.to(calibrated.dtype)).sum(dim=1)
        return Outputs(
            logits=logits,
            probabilities=logits.sigmoid(),
            calibrated_probabilities=calibrated,
            score=score,
            backbone=backbone if self.return_backbone else None,
        )

    def calibrate(self, ratios: Mapping[str, float]) -> None:
        """Sets what calibrated probabilities undo: by task, negatives kept / positives kept."""
        logs = [math.log(ratios.get(task, 1.0)) for task in self.tasks]
        self.calibration.copy_(torch.tensor(logs, dtype=torch.float64))

    def calibrated(self, logits: Tensor) -> Tensor:
        """The logits [B, T] of the calibrated probabilities p·r / (1 − p + p·r): log r is added."""
        return logits + self.calibration.to(logits.dtype)

    def _logits_and_backbone(
        self, batch: Batch, read: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        parts = [read[key] if key in read else layer(batch) for key, layer in self.inputs.items()]
        features = torch.cat(parts, dim=1)
        shared, backbone = features, None
        if self.backbone is not None:
            shared = backbone = self.backbone(features)
            if self.features_to_towers:
                shared = torch.cat([features, backbone], dim=1)
        logits = self._mapped(self.towers(shared))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), backbone

    def _mapped(self, logits: Tensor) -> Tensor:
        if not self.affine_maps:
            return logits
        columns = zip(self.towers, logits.split(1, dim=1), strict=True)
        lines = self.affine_maps
        return torch.cat([lines[key](c) if key in lines else c for key, c in columns], dim=1)

    def parameters_by_kind(self) -> dict[str, Any]:
        """Trainable parameters by name as the optimizer section takes them, each in one place.

        ``towers`` by task (tower and affine map), ``tables`` by embedding table, and ``backbone``:
        all the rest, the input layers included. ``embeddings`` names all embeddings' weights.
        """
        # a frozen table that is split requires gradients all the same, see split_tables
        frozen = {id(table.weight) for _, table, trainable in self._tables() if not trainable}
        named = [
            (name, p)
            for name, p in self.named_parameters()
            if p.requires_grad and id(p) not in frozen
        ]
        towers: dict[str, dict[str, nn.Parameter]] = {}
        for task in self.tasks:
            own = tuple(f"{part}.{module_key(task)}." for part in ("towers", "affine_maps"))
            towers[task] = {name: p for name, p in named if name.startswith(own)}
        weights = {id(table.weight): name for name, table, _ in self._tables()}
        tables = {weights[id(p)]: {name: p} for name, p in named if id(p) in weights}
        placed = {name for own in (*towers.values(), *tables.values()) for name in own}
        rest = {name: p for name, p in named if name not in placed}
        kinds = (nn.Embedding, nn.EmbeddingBag)
        embeddings = {f"{n}.weight" for n, part in self.named_modules() if isinstance(part, kinds)}
        embeddings |= {name for table in tables.values() for name in table}
        return {"towers": towers, "backbone": rest, "tables": tables, "embeddings": embeddings}

    def embedding_norms(self) -> dict[str, Tensor]:
        """Norms of the tables that the inputs name as ``tables_to_log``, by the name to log."""
        layers = (layer for layer in self.inputs.values() if isinstance(layer, EmbeddingTables))
        return {name: norm for layer in layers for name, norm in layer.norms().items()}

    def observers(self) -> list[EngagementRates]:
        """The inputs that count the training data, in one pass before the first step."""
        return [layer for layer in self.modules() if isinstance(layer, EngagementRates)]

    @property
    def input_names(self) -> set[str]:
        """The schema's inputs that are read: those that layers and stratifiers say as ``reads``."""
        return read_by(self).union(*(s.reads for s in self.stratifiers.values()))

    def _tables(self) -> list[tuple[str, nn.Module, bool]]:
        """Name and module of every embedding table, and whether it is trained."""
        return [
            (name, layer.table(name), layer.settings[name].trainable)
            for layer in self.inputs.values()
            if isinstance(layer, EmbeddingTables)
            for name in layer.features
        ]


def _faults(
    multi_task_type: str, inputs: Mapping, backbone: object, tasks: Mapping[str, Task]
) -> list[str]:
    """What is wrong with the settings by themselves."""
    faults = []
    allowed = get_args(MultiTaskType)
    if multi_task_type not in allowed:
        faults.append(
            f"model.multi_task_type={multi_task_type!r} is not one of {', '.join(allowed)}"
        )
    elif multi_task_type == "share_none" and backbone is not None:
        faults.append(
            "model.multi_task_type=share_none has no backbone, and one is given; "
            "set model/backbone=none, or multi_task_type to share_all or share_partial"
        )
    elif multi_task_type != "share_none" and backbone is None:
        faults.append(
            f"model.multi_task_type={multi_task_type} needs a backbone, and there is none; "
            "choose one, e.g. model/backbone=mask_net, or set multi_task_type to share_none"
        )
    if not inputs:
        faults.append("model.inputs={} must name at least one input, e.g. featurization")
    if not tasks:
        faults.append("model.tasks={} must name at least one task")
    if "backbone" in tasks:
        faults.append("model.tasks: 'backbone' is the shared part's name; rename the task")
    return faults


@contextmanager
def _collect(faults: list[str], place: str) -> Iterator[None]:
    """Turns a ValueError into a fault at ``place``; the constructor raises them together."""
    try:
        yield
    except ValueError as error:
        lines = str(error).splitlines()
        faults += [line if line.startswith("model.") else f"{place}: {line}" for line in lines]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))


def _tables_named_twice(tables: list[tuple[str, nn.Module, bool]]) -> list[str]:
    names = [name for name, *_ in tables]
    return [
        f"model.inputs: embedding table {name!r} is in two inputs; rename one and name its features"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]

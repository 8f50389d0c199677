"""A composed config made into the objects of an experiment, or refused with all its faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from recap.compose import SECTIONS, Refused
from recap.compose.binding import any_at, binding_faults, completed, shape_faults
from recap.compose.nodes import Nodes, located
from recap.compose.references import references, resolved, told_at_origin
from recap.data.decode import num_slots
from recap.data.listing import Listing
from recap.data.parquet import ParquetData
from recap.data.partition_faults import partition_faults
from recap.distributed import ALONE, Ranks, launched
from recap.joining import column_faults, joining_faults, rank_faults
from recap.loss import MultiTaskLoss
from recap.model.heavy_ranker import HeavyRanker
from recap.model.sharding_plan import TablePlan
from recap.run.compiled import compile_faults
from recap.run.parallel import parallel
from recap.run.split import Split, planned_split, split, split_faults, to_be_split
from recap.run.warm_start import start_faults
from recap.tracking import NoTracker, Tracker
from recap.training import Training


@dataclass(frozen=True)
class Experiment:
    """Everything a run is made of, checked against each other."""

    training: Training
    ranker: HeavyRanker
    parallel: nn.Module  # the ranker as it is called in training, see recap.run.parallel
    loss: MultiTaskLoss
    optimizer: torch.optim.Optimizer
    train_data: ParquetData
    validation_data: Mapping[str, ParquetData]
    tracker: Tracker
    ranks: Ranks
    tables: Sequence[TablePlan] = ()  # those that are split, and how

    @property
    def num_parameters(self) -> int:
        """Numbers that the ranker has, on all ranks together."""
        split = {row.weight: row.numel for row in self.tables}
        whole = (p.numel() for n, p in self.ranker.named_parameters() if n not in split)
        return sum(whole) + sum(split.values())

    @property
    def save_dir(self) -> Path:
        """The run's folder, absolute."""
        return Path(self.training.save_dir).absolute()


@dataclass
class Parts:
    """What could be made of a config, and its faults: without any, all parts are there."""

    faults: list[str]
    origins: Mapping[str, str] = field(default_factory=dict)  # of the values that templates give
    training: Training | None = None
    ranker: HeavyRanker | None = None
    build_optimizer: Callable[..., torch.optim.Optimizer] | None = None
    optimizer: torch.optim.Optimizer | None = None
    train_data: ParquetData | None = None
    validation_data: Mapping[str, ParquetData] = field(default_factory=dict)
    tracker: Tracker | None = None
    split: Split | None = None  # where tables are to be split, and the ranker is on the CPU still

    def experiment(self, ranks: Ranks = ALONE) -> Experiment:
        """The parts of a run that these ranks train together.

        Raises:
            Refused: there are faults, on any of them.
        """
        refuse_together(told_at_origin(self.faults, self.origins), ranks)
        assert self.training is not None
        assert self.ranker is not None
        assert self.optimizer is not None
        assert self.train_data is not None
        assert self.tracker is not None
        loss = MultiTaskLoss(
            self.ranker.tasks,
            pos_weight=self.ranker.pos_weights,
            task_weights=self.ranker.loss_weights,
            reduction=self.training.loss_reduction,
        ).to(self.training.torch_device)
        tables: Sequence[TablePlan] = ()
        if (how := ranks.told(self.split)) is not None:
            assert self.build_optimizer is not None
            tables = how.tables
            split(self.ranker, how, self.training, ranks)
            self.optimizer = self.build_optimizer(**self.ranker.parameters_by_kind())
        names = [row.weight for row in tables]
        return Experiment(
            self.training,
            self.ranker,
            parallel(
                self.ranker,
                ranks,
                self.training.torch_device,
                split=names,
                compile_mode=self.training.compile,
            ),
            loss,
            self.optimizer,
            self.train_data,
            self.validation_data,
            self.tracker if ranks.first else NoTracker(),
            ranks,
            tables,
        )


def prepare(cfg: DictConfig, ranks: Ranks = ALONE) -> Experiment:
    """The experiment that ``cfg`` describes, for these ranks.

    Raises:
        Refused: see ``assemble``.
    """
    return assemble(cfg, ranks=ranks).experiment(ranks)


def faults(cfg: DictConfig, num_ranks: int) -> list[str]:
    """What is wrong with ``cfg``, for a run of so many ranks on machines with other devices."""
    parts = assemble(for_other_devices(cfg), num_ranks)
    return told_once(told_at_origin(parts.faults, parts.origins))


def for_other_devices(cfg: DictConfig) -> DictConfig:
    """``cfg`` as it can be checked where there is no GPU: where a job is queued from."""
    if not str(OmegaConf.select(cfg, "training.device")).startswith("cuda"):
        return cfg
    cfg = cfg.copy()
    cfg.training.device = "cpu"
    return cfg


def told_once(faults: Sequence[str]) -> list[str]:
    """``faults``, each once: also what partitions only repeat, as they refer to train_data."""
    of_train = {f.removeprefix("train_data") for f in faults if f.startswith("train_data")}
    return [
        fault
        for fault in dict.fromkeys(faults)
        if re.sub(r"^validation_data\.[^.:=]+", "", fault) not in of_train
    ]


def refuse_together(faults: Sequence[str], ranks: Ranks) -> None:
    """All ranks stop where one of them has a fault: first those of rank 0, then what is theirs.

    Raises:
        Refused: there are faults, on any of them.
    """
    first, *others = ranks.gathered(told_once(faults))
    theirs = [
        f"rank {rank}: {fault}"
        for rank, found in enumerate(others, start=1)
        for fault in found
        if fault not in first
    ]
    if first or theirs:
        raise Refused(first + theirs)


def assemble(cfg: DictConfig, num_ranks: int | None = None, ranks: Ranks = ALONE) -> Parts:
    """The parts that ``cfg`` describes, as far as they can be made, and all its faults.

    A fault is anything that would stop the run later: unknown, missing and ill-typed keys, values
    out of range, sections that do not fit each other by task name, files that are missing, damaged
    or lack what the schema names, a folder that cannot be written. ``num_ranks`` is for a run that
    others will start; None is for the processes that were. Of ``ranks`` the first one looks for the
    files of data, and the others take what it finds.
    """
    try:
        plain = resolved(cfg)
    except OmegaConfBaseException as error:
        # what refers into a section that is null cannot be resolved either
        nulls = [name for name in SECTIONS if cfg[name] is None]
        faults = [f"{name}=null: must be a mapping, {{_target_: …}}" for name in nulls]
        return Parts(faults or [f"{error.full_key}: {_first_line(error)}"])
    plain, origins = completed(plain), references(cfg)
    faults = list(binding_faults(plain, ""))
    if shapes := list(shape_faults(plain, faults)):
        return Parts(faults + shapes, origins)
    sections = _sections(plain, faults)
    _list_once(sections, plain["validation_data"], ranks)
    faults += joining_faults(plain, sections)
    faults += rank_faults(sections, num_ranks or launched().world_size)
    parts = Parts(
        faults,
        origins,
        training=sections.get("training"),
        build_optimizer=sections.get("optimizer"),
        train_data=sections.get("train_data"),
        validation_data=sections["validation_data"],
        tracker=sections.get("tracking"),
    )
    if parts.training is not None:
        torch.manual_seed(parts.training.seed)
    unread = ("train_data.preprocess", "train_data.seg_dense_schema.sparse")
    if parts.train_data is not None and not any_at(faults, *unread):
        schema = parts.train_data.schema
        if "model" in sections:
            with _collected(faults, "model"):
                slots = {name: num_slots(sparse) for name, sparse in schema.sparse.items()}
                parts.ranker = sections["model"](schema, slots)
        for name, data in parts.validation_data.items():
            section = f"validation_data.{name}"
            if any_at(faults, f"{section}.preprocess", f"{section}.seg_dense_schema.sparse"):
                continue
            inputs = None if parts.ranker is None else parts.ranker.input_names
            faults += partition_faults(section, data.schema, schema, inputs)
    inputs = None if parts.ranker is None else parts.ranker.input_names
    faults += column_faults(plain, sections, inputs)
    if parts.ranker is not None and parts.training is not None:
        if num_ranks is None:  # else on other machines than this
            faults += compile_faults(parts.training)
        _placed(parts, num_ranks)
        if parts.train_data is not None and parts.training.sampling_correction == "calibration":
            rates = parts.train_data.tasks
            parts.ranker.calibrate({task: row.ratio for task, row in rates.items()})
        if parts.build_optimizer is not None and not any_at(faults, "optimizer"):
            with _collected(faults, "optimizer", plain["optimizer"]):
                parts.optimizer = parts.build_optimizer(**parts.ranker.parameters_by_kind())
        if not any_at(faults, "training.initial_checkpoint_dir"):
            faults += start_faults(parts.training, parts.ranker)
    return parts


def _placed(parts: Parts, num_ranks: int | None) -> None:
    """Moves the ranker to its device, or plans how its tables will be split over the ranks'."""
    assert parts.ranker is not None
    assert parts.training is not None
    number = num_ranks or launched().world_size
    if not to_be_split(parts.ranker, parts.build_optimizer, number):
        parts.ranker.to(parts.training.torch_device)
    elif num_ranks is None and parts.train_data is not None:
        parts.faults += split_faults(parts.training, parts.build_optimizer)
        with _collected(parts.faults, "training.sharding"):
            parts.split = planned_split(
                parts.ranker,
                parts.training,
                parts.build_optimizer,
                num_ranks=number,
                batch_size=parts.train_data.global_batch_size,
                uneven=parts.train_data.ignored is not None,
            )


def _sections(plain: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Every section without a fault as its object; adds the faults of those that refuse."""
    sections: dict[str, Any] = {"validation_data": {}}
    nodes = Nodes(plain)
    names = ["training", "model", "train_data", "optimizer", "tracking"]
    for place in [*names, *(f"validation_data.{name}" for name in plain["validation_data"])]:
        if any_at(faults, place):
            continue
        with _collected(faults, place):
            section, _, partition = place.partition(".")
            if partition:
                sections[section][partition] = nodes.made(place)
            else:
                sections[section] = nodes.made(place)
    return sections


def _list_once(sections: Mapping[str, Any], partitions: Iterable[str], ranks: Ranks) -> None:
    """All ranks read the same files, also if more appear meanwhile, and one asks for their footers.

    A section may be missing for a fault on some ranks only: of each of them something is told.
    """
    if ranks.world_size == 1:
        return
    for data in (sections.get("train_data"), *map(sections["validation_data"].get, partitions)):
        told = ranks.told(data.listing if ranks.first and data is not None else Listing())
        if data is not None:
            data.adopt(told)


@contextmanager
def _collected(
    faults: list[str], place: str, settings: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Turns what refuses or lacks an argument into faults at ``place`` or one of its settings."""
    try:
        yield
    except (ValueError, TypeError) as error:
        faults += located(place, error, settings or {})


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]

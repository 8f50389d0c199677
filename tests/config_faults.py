"""Single-key faults for valid configs: misspelt, of a wrong type, out of range, gone."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import hydra
from omegaconf import DictConfig, OmegaConf

SECTIONS = ("training", "model", "train_data", "validation_data", "optimizer", "tracking")
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
ABSENT = object()  # the key is taken out

# Values of every type; those that a key's annotation admits are no faults.
ODD = ("abc", 1.5, 7, True, None, ["abc"], [1.5, "a"], {"a": 1})

# Below what a number makes no sense; a value of exactly this bound does.
LEAST = {
    "num_train_steps": 0,
    "checkpoint_every_n": 1,
    "checkpoint_max_to_keep": 1,
    "train_log_every_n": 1,
    "eval_log_every_n": 1,
    "gradient_accumulation": 1,
    "seed": 0,
    "global_batch_size": 1,
    "examples_shuffle_buffer_size": 1,
    "interleave_num_parallel_calls": 1,
    "prefetch_batches": 1,
    "num_files_to_keep": 1,
    "file_batch_size": 1,
    "continuous_feature_truncation": 1,
    "binary_feature_truncation": 1,
    "length": 1,
    "num_buckets": 1,
    "vocabulary": 1,
    "embedding_dim": 1,
    "output_size": 1,
    "aggregation_size": 1,
    "num_ramp_steps": 0,
    "learning_rate": 0,
    "final_learning_rate": 0,
    "epsilon": 0,
    "eps": 0,
    "weight_decay": 0,
    "momentum": 0,
    "initial_accumulator_value": 0,
    "init_std": 0,
    "loss_weight": 0,
    "id_dropout": 0,
    "beta_1": 0,
    "beta_2": 0,
}
# Values that are too large or too small by themselves.
OUTSIDE = {
    "num_eval_steps": (0,),
    "gradient_clip_norm": (0, -1.0),
    "pos_weight": (0, -1.0),
    "initial_rate": (0, 1, -0.1, 1.1),
    "dropout": (-0.1, 1.0, 2),
    "id_dropout": (1.0, 2),
    "momentum": (2,),
    "clip_magnitude": (0, -1.0),
    "prior_strength": (0, -1.0),
    "beta_1": (1, 2),
    "beta_2": (1, 2),
    "betas": ([0.9, 1.0], [-0.1, 0.9], [0.9], [0.9, 0.99, 0.999]),
    "layer_sizes": ([], [0], [4, -1]),
    "mask_blocks": ([],),
    "reduction_factor": (0, -1.0),
    "final_num_steps": (0,),
    "sample_every_s": (0, -1.0),
    "precision": ("fp16",),
    "compile": ("fast", "reduce-overhead"),
    "loss_reduction": ("average",),
    "device": ("gpu7",),
    "objective": ("auroc", "valid/nothing/auroc"),
    "dtype": ("float33",),
    "pooling": ("max",),
    "init": ("zeros",),
    "multi_task_type": ("share_some",),
    "evaluation_tasks": (["nothing"],),
    "feature_names": ([], ["nothing"]),
    "continuous_feature_names": (["nothing"],),
    "feature_names_to_concat": (["nothing"],),
    "keys": ([], ["nothing"]),
    "fold": ("nothing",),
    "features": ([], ["nothing"]),
    "inputs": ("nowhere/*.parquet", []),
    "initial_checkpoint_dir": ("nowhere",),
    "continuous_feature_mask_path": ("nowhere.npy",),
    "column": ("nothing",),
    "columns": ([], ["nothing"]),
    "_target_": ("recap.nothing.Nothing", "nothing", "recap.schema.Nothing"),
    "tables": ({},),
    "interleave_num_parallel_calls": (3,),
    "learning_rate_values": ([], [-1.0], [math.nan]),
    "learning_rate_boundaries": ([5, 5], [-1, 5]),
    "pos_downsampling_rate": (0, 1.5, -0.1),
    "neg_downsampling_rate": (0, 1.5, -0.1),
}


@dataclass(frozen=True)
class Fault:
    """One key of a config made wrong."""

    kind: Literal["misspelt", "wrong type", "out of range", "missing"]
    path: tuple[str | int, ...]
    value: Any

    def __str__(self) -> str:
        written = "gone" if self.value is ABSENT else repr(self.value)
        return f"{self.kind}: {self.key}={written}"

    @property
    def key(self) -> str:
        """The dotted path."""
        return ".".join(map(str, self.path))

    def inject(self, cfg: DictConfig) -> DictConfig:
        """A copy of ``cfg`` with the fault; ``cfg`` holds no interpolations."""
        plain: Any = copy.deepcopy(OmegaConf.to_container(cfg))
        node = plain
        for part in self.path[:-1]:
            node = node[part]
        last = self.path[-1]
        if self.kind == "misspelt":
            right, wrong = self.value
            node[wrong] = node.pop(right)
        elif self.value is ABSENT:
            del node[last]
        else:
            node[last] = self.value
        wrong = OmegaConf.create(plain)
        assert isinstance(wrong, DictConfig)
        return wrong


def faults_of(cfg: DictConfig) -> Iterator[Fault]:
    """Every fault that is known for a key of ``cfg``."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    for section in SECTIONS:
        yield Fault("missing", (section,), None)
        yield Fault("wrong type", (section,), "abc")
        yield from _of_node(plain[section], (section,))


def _of_node(node: Any, path: tuple[str | int, ...], told: bool = False) -> Iterator[Fault]:
    """Faults at and below a node; ``told`` is one whose parent's signature tells its target."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _of_node(item, (*path, index), told)
    if not isinstance(node, dict):
        return
    if "_target_" not in node:
        for key, value in node.items():
            yield from _of_node(value, (*path, key), told)
        return
    target = hydra.utils.get_object(node["_target_"])
    signature = inspect.signature(target).parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    if not told:
        yield Fault("missing", (*path, "_target_"), ABSENT)
    for key, value in node.items():
        here = (*path, key)
        if key not in HYDRAS:
            yield from _of_node(value, here, _tells(hints.get(key)))
        if key not in HYDRAS:
            for wrong in _misspelt(key):
                if wrong not in signature:
                    yield Fault("misspelt", (*path, wrong), (key, wrong))
            if key in hints:
                for odd in ODD:
                    if not _admits(hints[key], odd):
                        yield Fault("wrong type", here, odd)
            if signature[key].default is inspect.Parameter.empty:
                yield Fault("missing", here, ABSENT)
        if key not in HYDRAS or key == "_target_":
            yield from _out_of_range(here, key, value, hints.get(key))


def _out_of_range(here: tuple, key: str, value: Any, hint: Any) -> Iterator[Fault]:
    if hint is not None and _admits(hint, 0.5) and not isinstance(value, dict | list):
        yield Fault("out of range", here, math.nan)
        yield Fault("out of range", here, math.inf)
        yield Fault("out of range", here, -math.inf)
    if key in LEAST and not isinstance(value, dict | list | str):
        yield Fault("out of range", here, LEAST[key] - 1)
        yield Fault("out of range", here, LEAST[key] - 1000)
    for outside in OUTSIDE.get(key, ()):
        if isinstance(value, list | dict) != isinstance(outside, list | dict) and key != "inputs":
            continue
        yield Fault("out of range", here, outside)


def _tells(hint: Any) -> bool:
    """Whether a node without a target can only be one thing where ``hint`` is annotated."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return len(kinds) == 1 and _tells(kinds[0])
    return _tells(kinds[-1]) if kinds else dataclasses.is_dataclass(hint)


def _misspelt(key: str) -> Iterator[str]:
    """The key with a letter left out, doubled, and two letters turned round."""
    middle = len(key) // 2
    yield key[:middle] + key[middle + 1 :]
    yield key[:middle] + key[middle] + key[middle:]
    if key[middle - 1] != key[middle]:
        yield key[: middle - 1] + key[middle] + key[middle - 1] + key[middle + 1 :]


def _admits(hint: Any, value: Any) -> bool:
    """Whether a plain value may stand where ``hint`` is annotated; strictly, true is no number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_admits(argument, value) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_admits(arguments[1], v) for v in value.values())
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return isinstance(value, list) and all(_admits(arguments[0], v) for v in value)
    # only a node with a _target_ becomes one
    return not (origin is Callable or dataclasses.is_dataclass(hint) or inspect.isclass(hint))

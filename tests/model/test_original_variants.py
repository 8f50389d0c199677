"""Models of the original that no golden file holds, against a plain reading of their weights.

``Written`` makes weights under the original's names and computes with them, in functions of torch
and nothing of recap: what the published architecture says, entry by entry.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from recap.batch import Batch
from recap.model.original import from_original
from recap.model.original_weights import is_original

TASKS = ("recap.engagement.is_favorited", "is_replied", "recap.engagement.is_shared")
NAMES = ("is_favorited", "is_replied", "is_shared")
EMBEDDINGS = ("user_embedding", "user_eng_embedding", "author_embedding")
CONTINUOUS, BINARY, EMBEDDING = 6, 3, 4
MLP = {"layer_sizes": [5, 1]}
NORMED = {"layer_sizes": [5, 4, 1], "batch_norm": {"affine": True}, "dropout": None}
BLOCKS = [
    {"output_size": 7, "reduction_factor": 0.5, "input_layer_norm": False},
    {"output_size": 5, "aggregation_size": 3, "input_layer_norm": True},
]
DOUBLE_NORM_LOG = {
    "batch_norm_config": {"affine": True, "momentum": 0.01},
    "clip_magnitude": 0.7,
    "layer_norm_config": {"epsilon": 0.0, "axis": -1},
}


class Written:
    """A model of the original as its state dict says, with random weights."""

    def __init__(self, model: dict, embeddings=EMBEDDINGS) -> None:
        self.model, self.embeddings = model, embeddings
        self.state: dict[str, Tensor] = {}
        self.random = torch.Generator().manual_seed(7)
        self.making = True
        self.forward(self.batch(), training=False)
        self.making = False

    def batch(self, rows: int = 9) -> Batch:
        dense = {
            "continuous": 4 * torch.randn(rows, CONTINUOUS, generator=self.random),
            "binary": torch.randint(0, 2, (rows, BINARY), generator=self.random),
            **{e: torch.randn(rows, EMBEDDING, generator=self.random) for e in self.embeddings},
        }
        dense["continuous"][0, 0] = float("nan")
        return Batch(dense=dense, sparse={}, tasks=NAMES, labels=torch.zeros(rows, 3))

    def entry(self, name: str, *shape: int, about: float = 0.0) -> Tensor:
        if self.making:
            noise = torch.randn(shape, generator=self.random, dtype=torch.float64)
            self.state[f"model.{name}"] = about + 0.5 * noise.abs() if about else 0.5 * noise
        return self.state[f"model.{name}"]

    def forward(self, batch: Batch, *, training: bool) -> Tensor:
        self.training = training
        features = self.features({k: v.double() for k, v in batch.dense.items()})
        shared = features
        kind = self.model.get("multi_task_type") or "share_none"
        if kind != "share_none":
            shared = self.network("_backbone", self.model["backbone"], features)
        if kind == "share_partial":
            shared = torch.cat([features, shared], dim=1)
        logits = []
        for task, row in self.model["tasks"].items():
            inside = task.replace(".", "__")
            logit = self.network(f"_towers.{inside}", row, shared)
            if row.get("affine_map"):
                logit = self.linear(f"_affine_maps.{inside}", logit, 1)
            self.entry(f"_calibrators.{inside}.ratio", about=0.1)
            logits.append(logit)
        return torch.cat(logits, dim=1)

    def features(self, dense: dict[str, Tensor]) -> Tensor:
        row = self.model["featurization_config"]["double_norm_log_config"]
        place = "_preprocessor._before_concat_layers"
        x = torch.where(dense["continuous"].isfinite(), dense["continuous"], 0.0)
        x = x.sign() * (1 + x.abs()).log()
        index = 2
        if row.get("batch_norm_config"):
            x = self.batch_norm(f"{place}.2.layer", x, row["batch_norm_config"])
            index = 3
        high = self.entry(f"{place}.{index}.max_value")
        if self.making:
            high.fill_(row.get("clip_magnitude", 5.0))
            self.state[f"model.{place}.{index}.min_value"] = -high
        x = torch.cat([x.clamp(-high, high), dense["binary"]], dim=1)
        if norm := row.get("layer_norm_config"):
            weight = bias = None
            if norm.get("center", True):
                weight = self.entry("_preprocessor.layer_norm.layer.weight", x.shape[1], about=0.5)
                bias = self.entry("_preprocessor.layer_norm.layer.bias", x.shape[1])
            x = F.layer_norm(x, x.shape[1:], weight, bias, norm.get("epsilon", 1e-3))
        columns = [self.layer_norm(f"_{e}_layer_norm", dense[e]) for e in self.embeddings]
        return torch.cat([x, *columns], dim=1)

    def network(self, place: str, row: dict, x: Tensor) -> Tensor:
        if "mlp_config" in row and row["mlp_config"] is not None:
            return self.mlp(f"{place}.layers", row["mlp_config"], x)
        row, net, outputs = row["mask_net_config"], x, []
        for i, block in enumerate(row["mask_blocks"]):
            at = f"{place}._mask_blocks.{i}"
            into = x if row.get("use_parallel") else net
            width = block.get("aggregation_size") or int(x.shape[1] * block["reduction_factor"])
            mask = self.linear(f"{at}._mask_layer.0", x, width).relu()
            mask = self.linear(f"{at}._mask_layer.2", mask, into.shape[1])
            if block["input_layer_norm"]:
                into = self.layer_norm(f"{at}._input_layer_norm", into)
            net = self.linear(f"{at}._hidden_layer", into * mask, block["output_size"])
            net = self.layer_norm(f"{at}._layer_norm", net)
            outputs.append(net)
        net = torch.cat(outputs, dim=1) if row.get("use_parallel") else net
        if row.get("mlp"):
            net = self.mlp(f"{place}._dense_layers.layers", row["mlp"], net)
        return net

    def mlp(self, place: str, row: dict, x: Tensor) -> Tensor:
        index, sizes = 0, row["layer_sizes"]
        for size in sizes[:-1]:
            x = self.linear(f"{place}.{index}", x, size)
            index += 1
            if row.get("batch_norm") is not None:
                x = self.batch_norm(f"{place}.{index}", x, row["batch_norm"])
                index += 1
            x = x.relu()
            index += 2 if row.get("dropout") else 1
        x = self.linear(f"{place}.{index}", x, sizes[-1])
        return x.relu() if row.get("final_layer_activation") else x

    def linear(self, place: str, x: Tensor, width: int) -> Tensor:
        weight = self.entry(f"{place}.weight", width, x.shape[1])
        return x @ weight.T + self.entry(f"{place}.bias", width)

    def layer_norm(self, place: str, x: Tensor) -> Tensor:
        weight = self.entry(f"{place}.weight", x.shape[1], about=0.5)
        bias = self.entry(f"{place}.bias", x.shape[1])
        centred = x - x.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * weight + bias

    def batch_norm(self, place: str, x: Tensor, row: dict) -> Tensor:
        mean = self.entry(f"{place}.running_mean", x.shape[1])
        variance = self.entry(f"{place}.running_var", x.shape[1], about=0.5)
        if self.making:
            self.state[f"model.{place}.num_batches_tracked"] = torch.tensor(3)
        if self.training:
            mean, variance = x.mean(dim=0), x.var(dim=0, unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt()
        if row.get("affine", True):
            x = x * self.entry(f"{place}.weight", x.shape[1], about=0.5)
            x = x + self.entry(f"{place}.bias", x.shape[1])
        return x


def described(
    *, shared="share_none", backbone=None, featurization=None, first=None, affine=True
) -> dict:
    """The section model of three tasks, the first tower as given."""
    towers = [first or {"mlp_config": NORMED}, {"mlp_config": MLP}, {"mlp_config": NORMED}]
    tasks = {task: {"pos_weight": 2.0, **row} for task, row in zip(TASKS, towers, strict=True)}
    if affine:
        tasks[TASKS[1]]["affine_map"] = {"scale": 2.0}
    model = {
        "tasks": tasks,
        "multi_task_type": shared,
        "featurization_config": {
            "double_norm_log_config": DOUBLE_NORM_LOG if featurization is None else featurization
        },
    }
    return model if backbone is None else {**model, "backbone": backbone}


def mask_net(parallel: bool, top: dict | None = None) -> dict:
    return {"mask_net_config": {"mask_blocks": BLOCKS, "use_parallel": parallel, "mlp": top}}


TOP = {"layer_sizes": [8], "final_layer_activation": True}
NO_NORMS = {"batch_norm_config": None, "clip_magnitude": 0.1}
VARIANTS = {
    "parallel": described(shared="share_all", backbone=mask_net(True, TOP)),
    "serial": described(shared="share_all", backbone=mask_net(False)),
    "serial with an MLP": described(shared="share_all", backbone=mask_net(False, TOP)),
    "share_partial": described(shared="share_partial", backbone=mask_net(True)),
    "share_partial, MLP backbone": described(
        shared="share_partial", backbone={"mlp_config": {**NORMED, "layer_sizes": [6, 5]}}
    ),
    "share_none": described(),
    "share_none, said by nothing": {**described(), "multi_task_type": None},
    "a mask net as a tower": described(first=mask_net(False, {"layer_sizes": [1]})),
    "one layer": described(first={"mlp_config": {"layer_sizes": [1]}}, affine=False),
    "no norms": described(featurization=NO_NORMS),
    "no batch norm": described(
        shared="share_all",
        backbone=mask_net(True),
        featurization={**DOUBLE_NORM_LOG, "batch_norm_config": None},
    ),
    "no layer norm": described(featurization={**DOUBLE_NORM_LOG, "layer_norm_config": None}),
    "norms of defaults": described(
        featurization={"batch_norm_config": {"affine": False}, "layer_norm_config": {"axis": -1}}
    ),
    "no learned norms": described(
        featurization={"layer_norm_config": {"center": False, "scale": False}}
    ),
    "dropout shifts the layers": described(
        first={"mlp_config": {**NORMED, "dropout": {"rate": 0.3}}}
    ),
}


def close(ours: Tensor, theirs: Tensor, rtol: float) -> bool:
    return bool((ours - theirs).abs().max() <= rtol * theirs.abs().max())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_computes_what_its_weights_say(name: str):
    written = Written(VARIANTS[name])
    batch = written.batch()
    ranker = from_original(written.state, {"model": VARIANTS[name]})
    assert ranker.tasks == NAMES
    assert ranker.pos_weights == dict.fromkeys(NAMES, 2.0)
    modes = (False,) if "dropout" in name else (False, True)
    for training in modes:
        theirs = written.forward(batch, training=training)
        assert close(ranker.train(training)(batch), theirs, 1e-12)
    ranker = from_original(written.state, {"model": VARIANTS[name]}).float()
    assert close(ranker.eval()(batch), written.forward(batch, training=False), 2e-5)


@pytest.mark.parametrize("embeddings", [(), EMBEDDINGS[:1], EMBEDDINGS[1:]])
def test_embeddings_may_be_missing(embeddings: tuple[str, ...]):
    model = VARIANTS["serial"]
    written = Written(model, embeddings)
    batch = written.batch()
    ranker = from_original(written.state, {"model": model}).eval()
    assert ranker.input_names == {"continuous", "binary", *embeddings}
    assert close(ranker(batch), written.forward(batch, training=False), 1e-12)


def test_arrays_names_without_prefix_and_nulls_are_the_same():
    model = VARIANTS["parallel"]
    written = Written(model)
    nulls = copy.deepcopy(model)
    for row in (*nulls["tasks"].values(), nulls["backbone"]):
        row.setdefault("mlp_config", None)
        row |= {"dcn_config": None, "dlrm_config": None}
        row.setdefault("affine_map", None)
    nulls |= {"large_embeddings": None, "small_embeddings": None, "stratifiers": None}
    bare = {
        name.removeprefix("model."): tensor.numpy()
        for name, tensor in written.state.items()
        if not name.endswith(("ratio", "value"))
    }
    assert isinstance(bare["_backbone._mask_blocks.0._layer_norm.bias"], np.ndarray)
    batch = written.batch()
    first, second = (
        from_original(written.state, {"model": model}),
        from_original(bare, {"model": nulls, "train_data": None}),
    )
    torch.testing.assert_close(first.eval()(batch), second.eval()(batch), rtol=1e-6, atol=1e-7)
    assert is_original(bare)
    assert is_original(f"module.{name}" for name in written.state)
    assert not is_original(first.state_dict())


def test_the_split_of_columns_is_the_batchs_where_no_norm_tells_it():
    model = VARIANTS["no norms"]
    written = Written(model)
    batch = written.batch()
    ranker = from_original(written.state, {"model": model}).eval()
    assert ranker.in_features == CONTINUOUS + BINARY + 3 * EMBEDDING
    assert close(ranker(batch), written.forward(batch, training=False), 1e-12)


def test_what_the_original_has_no_code_for_is_refused_all_at_once():
    model = described(shared="share_all", backbone={"dcn_config": {"poly_degree": 2}})
    model["tasks"][TASKS[0]] = {"mlp_config": MLP, "mask_net_config": mask_net(True)}
    model["tasks"][TASKS[1]] = {"mlp_config": {"batch_norm": None}}
    model["small_embeddings"] = {"tables": []}
    model["featurization_config"] = {"log1p_abs_config": {}}
    with pytest.raises(ValueError, match="no code") as error:
        from_original({}, {"model": model})
    weights_of = "weights exist of one of mlp_config and mask_net_config, given is"
    assert str(error.value).splitlines() == [
        "model.small_embeddings: the original has no code for it, so no weights of it exist",
        f"model.backbone: {weights_of} dcn_config",
        f"model.tasks.{TASKS[0]}: {weights_of} mlp_config, mask_net_config",
        f"model.tasks.{TASKS[1]}.mlp_config: 'layer_sizes' is missing",
        "model.featurization_config: the original has code for double_norm_log_config only",
    ]
    with pytest.raises(ValueError, match=r"model\.tasks: the configuration describes no task"):
        from_original({}, {"model": {}})


def test_weights_of_another_configuration_are_refused():
    state = Written(VARIANTS["serial"]).state
    with pytest.raises(ValueError, match=r"backbone\.mlp\.layers\.0\.weight: \[8, 5\] here, no"):
        from_original(state, {"model": VARIANTS["parallel"] | {"backbone": mask_net(False, TOP)}})
    one_layer = {"layer_sizes": [1]}
    missing = r"_towers\..*is_favorited\.layers\.0\.weight or .*: missing; it tells how wide"
    with pytest.raises(ValueError, match=missing):
        from_original({}, {"model": described(first={"mlp_config": one_layer})})


def test_numbers_that_yaml_takes_for_strings_are_numbers():
    model = copy.deepcopy(VARIANTS["norms of defaults"])
    norm = {"epsilon": 0.001, "axis": -1}
    model["featurization_config"]["double_norm_log_config"]["layer_norm_config"] = norm
    written = Written(model)
    batch = written.batch()
    ranker = from_original(written.state, {"model": model}).eval()
    norm["epsilon"] = "1e-3"
    same = from_original(written.state, {"model": model}).eval()
    assert torch.equal(same(batch), ranker(batch))


def test_what_is_of_another_type_than_the_original_has_is_told_with_its_place():
    model = copy.deepcopy(VARIANTS["parallel"])
    state = Written(model).state
    model["tasks"][TASKS[0]] = {"mlp_config": {"layer_sizes": None}}
    model["tasks"][TASKS[1]]["affine_map"] = [2.0, 1.0]
    model["backbone"]["mask_net_config"] = {"mask_blocks": [{"aggregation_size": 3}]}
    rates = {"tasks": {TASKS[2]: {"pos_downsampling_rate": 0.0}}}
    with pytest.raises(ValueError, match="not what the original has there") as error:
        from_original({}, {"model": model, "train_data": rates})
    told = [line.split(" (")[0] for line in str(error.value).splitlines()]
    assert told == [
        "model.backbone.mask_net_config: not what the original has there",
        f"model.tasks.{TASKS[0]}.mlp_config: not what the original has there",
        f"model.tasks.{TASKS[1]}: not what the original has there",
        "train_data.tasks: not what the original has there",
    ]
    with pytest.raises(ValueError, match=r"model\.tasks=\['a'\]: must map names to towers"):
        from_original(state, {"model": {"tasks": ["a"]}})

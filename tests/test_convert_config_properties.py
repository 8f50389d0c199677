"""Random configurations of the original compose here to the numbers that they state."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recap.compose import compose
from recap.compose.binding import binding_faults, completed
from recap.convert_config import main

# a composition takes a second, so a failing configuration is shown as it was drawn
FEW = settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
MLP = "recap.model.mlp.MLP"

rates = st.floats(1e-6, 1.0)
steps = st.integers(1, 10_000)
widths = st.lists(st.integers(1, 64), min_size=1, max_size=3)


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


def stated(**fields: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with these fields, of which those that are None may also be absent."""

    def drawn(values: tuple[dict[str, Any], bool]) -> dict[str, Any]:
        row, bare = values
        return {key: value for key, value in row.items() if not (bare and value is None)}

    return st.tuples(st.fixed_dictionaries(fields), st.booleans()).map(drawn)


batch_norms = maybe(stated(affine=st.booleans(), momentum=st.floats(0.01, 1.0)))
mlps = stated(
    layer_sizes=widths,
    batch_norm=batch_norms,
    dropout=maybe(stated(rate=st.floats(0.1, 0.9))),
    final_layer_activation=st.booleans(),
)
towers = st.builds(lambda mlp: {**mlp, "layer_sizes": [*mlp["layer_sizes"], 1]}, mlps)
ramps = stated(learning_rate=rates, num_ramp_steps=steps)
cosines = st.builds(
    lambda ramp, final, more: (
        ramp | {"final_learning_rate": final, "final_num_steps": ramp["num_ramp_steps"] + more}
    ),
    ramps,
    rates,
    steps,
)
pieces = st.builds(
    lambda bounds, values: {
        "learning_rate_boundaries": sorted(bounds),
        "learning_rate_values": values[: len(bounds) + 1],
    },
    st.sets(steps, max_size=3),
    st.lists(rates, min_size=4, max_size=4),
)
KINDS = ("constant", "linear_ramp_to_constant", "linear_ramp_to_cosine", "piecewise_constant")
curves = st.one_of(
    *(
        st.tuples(values, st.booleans()).map(
            lambda drawn, kind=kind: {
                **(dict.fromkeys(KINDS) if drawn[1] else {}),
                kind: drawn[0],
            }
        )
        for kind, values in zip(KINDS, (rates, ramps, cosines, pieces), strict=True)
    )
)
blocks = st.lists(
    stated(
        output_size=st.integers(1, 32),
        aggregation_size=st.integers(1, 32),
        reduction_factor=st.none(),
        input_layer_norm=st.booleans(),
    ),
    min_size=1,
    max_size=3,
)
backbones = st.one_of(
    mlps.map(lambda mlp: {"mlp_config": mlp}),
    st.builds(
        lambda config: {"mask_net_config": config},
        stated(mask_blocks=blocks, mlp=maybe(mlps), use_parallel=st.booleans()),
    ),
)
tasks = st.dictionaries(
    st.sampled_from(["recap.engagement.is_a", "recap.engagement.is_b", "plain", "dotted.name"]),
    st.tuples(towers, st.floats(0.1, 9.0), maybe(stated(scale=rates, bias=rates)), curves),
    min_size=1,
)


@st.composite
def originals(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration that the original accepts."""
    rows = draw(tasks)
    shared = draw(st.sampled_from(["share_all", "share_partial", "share_none"]))
    labels = {task: {"neg_downsampling_rate": draw(st.floats(0.001, 1.0))} for task in rows}
    batch = draw(st.integers(1, 512))
    data = {
        "inputs": "folder/*.gz",
        "global_batch_size": batch,
        "seg_dense_schema": {
            "schema_path": "nowhere.json",
            "renamed_features": {
                "continuous": "home_recap_2022_cont__segdense_vals",
                "binary": "home_recap_2022_binary__segdense_vals",
            },
        },
        "tasks": labels,
    }
    multi = {
        "tower_learning_rates": {task: row[3] for task, row in rows.items()},
        "backbone_learning_rate": draw(curves),
    }
    single = draw(st.booleans())
    return {
        "training": {"num_train_steps": draw(steps), "save_dir": None},
        "model": {
            "multi_task_type": shared,
            "backbone": None if shared == "share_none" else draw(backbones),
            "featurization_config": {
                "double_norm_log_config": {
                    "batch_norm_config": draw(batch_norms),
                    "clip_magnitude": draw(st.floats(0.1, 9.0)),
                }
            },
            "tasks": {
                task: {"mlp_config": row[0], "pos_weight": row[1], "affine_map": row[2]}
                for task, row in rows.items()
            },
        },
        "train_data": data,
        "validation_data": {"valid": data},
        "optimizer": {
            "single_task_learning_rate": draw(curves) if single else None,
            "multi_task_learning_rates": None if single else multi,
            "adam": {"beta_1": draw(st.floats(0.0, 0.99))},
        },
    }


def composed(original: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "original.yaml"
        source.write_text(yaml.safe_dump(original, sort_keys=False))
        assert main([str(source), "-o", f"{folder}/experiment/mine.yaml"]) == 0
        cfg = compose(f"hydra.searchpath=[file://{folder}]", "experiment=mine")
    plain = completed(OmegaConf.to_container(cfg, resolve=True))
    assert list(binding_faults(plain, "")) == []
    return plain


def curve(ours: dict[str, Any]) -> dict[str, Any]:
    """A composed curve in the original's words."""
    kind = dict(
        zip(
            ("Constant", "LinearRampToConstant", "LinearRampToCosine", "PiecewiseConstant"),
            KINDS,
            strict=True,
        )
    )[ours["_target_"].rpartition(".")[2]]
    numbers = {key: value for key, value in ours.items() if key != "_target_"}
    return {kind: numbers["learning_rate"] if kind == "constant" else numbers}


def given_in(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def assert_same_mlp(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["_target_"] == MLP
    assert ours["layer_sizes"] == theirs["layer_sizes"]
    assert ours["final_layer_activation"] == theirs["final_layer_activation"]
    assert ours["dropout"] == (theirs.get("dropout") or {"rate": None})["rate"]
    assert_same_norm(ours["batch_norm"], theirs.get("batch_norm"))


def assert_same_norm(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert (ours["affine"], ours["momentum"]) == (theirs["affine"], theirs["momentum"])


@FEW
@given(originals())
def test_a_random_configuration_composes_to_the_same_numbers(original: dict[str, Any]):
    cfg = composed(original)
    model, theirs = cfg["model"], original["model"]
    names = [task.removeprefix("recap.engagement.").replace(".", "__") for task in theirs["tasks"]]
    assert list(model["tasks"]) == names
    for ours, row in zip(model["tasks"].values(), theirs["tasks"].values(), strict=True):
        assert_same_mlp(ours["tower"], row["mlp_config"])
        assert ours["pos_weight"] == row["pos_weight"]
        affine = ours["affine_map"]
        assert (affine and (affine["scale"], affine["bias"])) == (
            row["affine_map"] and (row["affine_map"]["scale"], row["affine_map"]["bias"])
        )
    assert model["multi_task_type"] == theirs["multi_task_type"]
    if theirs["backbone"] is None:
        assert model["backbone"] is None
    elif mlp := theirs["backbone"].get("mlp_config"):
        assert_same_mlp(model["backbone"], mlp)
    else:
        net = theirs["backbone"]["mask_net_config"]
        assert model["backbone"]["use_parallel"] == net["use_parallel"]
        blocks = [given_in(block) for block in model["backbone"]["mask_blocks"]]
        for block in blocks:
            del block["_target_"]
        assert blocks == [given_in(block) for block in net["mask_blocks"]]
        assert (model["backbone"]["mlp"] is None) == (net.get("mlp") is None)
        if net.get("mlp"):
            assert_same_mlp(model["backbone"]["mlp"], net["mlp"])
    log = theirs["featurization_config"]["double_norm_log_config"]
    featurization = model["inputs"]["featurization"]
    assert featurization["clip_magnitude"] == log["clip_magnitude"]
    assert_same_norm(featurization["batch_norm_config"], log["batch_norm_config"])
    assert featurization["layer_norm_config"] is None

    optimizer = original["optimizer"]
    assert cfg["optimizer"]["adam"]["beta_1"] == optimizer["adam"]["beta_1"]
    assert cfg["optimizer"]["adam"]["epsilon"] == 1e-7
    if optimizer["single_task_learning_rate"]:
        assert cfg["optimizer"]["multi_task_learning_rates"] is None
        single = curve(cfg["optimizer"]["single_task_learning_rate"])
        assert single == given_in(optimizer["single_task_learning_rate"])
    else:
        multi, ours = (
            optimizer["multi_task_learning_rates"],
            cfg["optimizer"]["multi_task_learning_rates"],
        )
        assert curve(ours["backbone_learning_rate"]) == given_in(multi["backbone_learning_rate"])
        told = [curve(row) for row in ours["tower_learning_rates"].values()]
        assert told == [given_in(row) for row in multi["tower_learning_rates"].values()]

    assert cfg["training"]["num_train_steps"] == original["training"]["num_train_steps"]
    for data in (cfg["train_data"], cfg["validation_data"]["valid"]):
        assert data["global_batch_size"] == original["train_data"]["global_batch_size"]
        negatives = {name: row["neg_downsampling_rate"] for name, row in data["tasks"].items()}
        kept = [row["neg_downsampling_rate"] for row in original["train_data"]["tasks"].values()]
        assert negatives == {n: rate for n, rate in zip(names, kept, strict=True) if rate != 1.0}

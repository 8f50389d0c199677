"""Nodes as objects, and the keys that what they refuse is about."""

import pytest
from omegaconf import OmegaConf
from torch import nn

from recap.compose.nodes import Build, Nodes, section
from recap.schema import Dense, Schema

MLP = {"_target_": "recap.model.mlp.MLP", "_partial_": True, "layer_sizes": [2, 1]}
NORM = {"_target_": "recap.model.norm.BatchNorm", "momentum": 0.1}


def built(**settings: object) -> nn.Module:
    return Nodes({"model": {"tower": {**MLP, **settings}}}).made("model.tower")(3)


def test_a_partial_node_is_called_with_its_settings():
    build = Nodes({"model": {"tower": {**MLP, "batch_norm": NORM}}}).made("model.tower")
    assert isinstance(build, Build)
    assert [type(layer).__name__ for layer in build(3).layers] == [
        *("Linear", "BatchNorm1d", "ReLU", "Linear")
    ]


def test_what_a_partial_node_refuses_when_it_is_called_has_its_path():
    with pytest.raises(ValueError, match=r"^model\.tower\.dropout=2 must be a fraction"):
        built(dropout=2)


def test_what_a_node_inside_a_partial_one_refuses_has_its_own_path():
    with pytest.raises(ValueError, match=r"^model\.tower\.batch_norm\.momentum=3 must be above"):
        built(batch_norm={**NORM, "momentum": 3})


def test_a_setting_that_a_partial_node_lacks_is_missing():
    node = {key: value for key, value in MLP.items() if key != "layer_sizes"}
    with pytest.raises(ValueError, match=r"^model\.tower\.layer_sizes: missing; it has no default"):
        Nodes({"model": {"tower": node}}).made("model.tower")(3)


def test_words_of_a_library_are_told_with_the_setting_whose_value_they_say():
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "betas": [0.9, 1.0], "eps": -1}
    weights = [nn.Linear(1, 1).weight]
    with pytest.raises(ValueError, match=r"^optimizer\.eps: Invalid epsilon value: -1$"):
        Nodes({"optimizer": adam}).made("optimizer")(weights)
    adam["eps"] = 1
    with pytest.raises(ValueError, match=r"^optimizer\.betas: Invalid beta parameter at index 1"):
        Nodes({"optimizer": adam}).made("optimizer")(weights)


def test_every_row_of_a_mapping_that_refuses_is_told():
    rows = {name: {**NORM, "momentum": 3} for name in ("a", "b")}
    with pytest.raises(ValueError, match=r"^model\.a\.momentum=3 .*\nmodel\.b\.momentum=3 "):
        Nodes({"model": rows}).made("model")


def test_a_section_is_made_by_itself_and_its_rows_need_no_target():
    rows = {
        "_target_": "recap.schema.Schema",
        "labels": {},
        "dense": {"d": {"column": "c", "length": 3}},
    }
    schema = section(OmegaConf.create({"data": {"schema": rows}}), "data.schema")
    assert schema == Schema(labels={}, dense={"d": Dense(column="c", length=3)})


def test_a_section_that_cannot_be_made_is_refused_with_its_keys():
    rows = {"_target_": "recap.schema.Schema", "labels": 3, "dense": {"d": {"lenth": 3}}}
    with pytest.raises(
        ValueError, match=r"data\.schema\.dense\.d\.lenth: .*close: length"
    ) as refused:
        section(OmegaConf.create({"data": {"schema": rows}}), "data.schema")
    assert "\ndata.schema.labels=3: must be" in f"\n{refused.value}"
    with pytest.raises(ValueError, match="data=None: must be a mapping"):
        section(OmegaConf.create({"data": None}), "data.schema")

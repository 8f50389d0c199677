"""The values that references lead to, looked up here, are those that OmegaConf finds."""

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recap.compose import compose, references
from recap.compose.references import values
from recap.compose.run_config import composed_yaml, resolved_yaml


def by_omegaconf(cfg: DictConfig) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("experiment", ["local_prod", "kuairand"])
def test_an_experiments_values_are_looked_up(experiment: str, monkeypatch: pytest.MonkeyPatch):
    cfg = compose(f"experiment={experiment}", "data_root=a folder/of $data")
    expected, text = by_omegaconf(cfg), OmegaConf.to_yaml(cfg, resolve=True)
    plain = OmegaConf.to_container

    def unresolved(cfg: DictConfig, *, resolve: bool) -> Any:
        assert not resolve, "left to OmegaConf, which takes long"
        return plain(cfg, resolve=False)

    monkeypatch.setattr(references.OmegaConf, "to_container", unresolved)
    assert values(cfg) == expected
    assert resolved_yaml(cfg) == text
    assert "${" not in str(expected)


def test_a_written_config_is_read_as_it_was():
    cfg = compose("experiment=local_prod", "data_root='a: b #ü'")
    assert composed_yaml(cfg) == OmegaConf.to_yaml(cfg)
    odd = {"none": None, "on": "on", "one": "1", "½": "😀\n", "to": "${none}", "missing": "???"}
    assert OmegaConf.create(composed_yaml(OmegaConf.create(odd))) == odd


@pytest.mark.parametrize(
    "node",
    [
        {"x": "${a.b}"},
        {"x": "${a}", "y": ["${a.b}", {"z": "${a.list}"}]},
        {"x": "in ${name}/of ${a.name}"},
        {"x": "${a.again}"},
        {"x": "${a.none}", "y": "${a.float}", "z": "${a.true}"},
        {"x": "number ${a.b}"},
        {"x": "${a.list.0}"},
        {"x": "${a[b]}"},
        {"x": "${.y}", "y": 3},
        {"x": "${through.b}", "through": "${a}"},
        {"x": "${a.${name}}"},
        {"x": "${oc.env:NO_SUCH_VARIABLE,7}"},
        {"x": r"\${a.b}", "y": "cost: 5$", "z": "$${a.name}"},
        {"x": "???"},
        {1: "${a.b}"},
    ],
    ids=str,
)
def test_every_kind_of_reference_comes_out_as_omegaconf_says_it(node: dict):
    a = {"b": 1, "list": [1, 2], "again": "${name}", "none": None, "float": 0.5, "true": True}
    cfg = OmegaConf.create({"a": {**a, "name": "n"}, "name": "b", **node})
    assert values(cfg) == by_omegaconf(cfg)


@pytest.mark.parametrize(
    "node", [{"x": "${nowhere}"}, {"x": "${open}", "open": "???"}, {"x": "${y}", "y": "${x}"}]
)
def test_what_leads_nowhere_is_refused_as_omegaconf_does(node: dict):
    cfg = OmegaConf.create(node)
    with pytest.raises((OmegaConfBaseException, RecursionError)) as theirs:
        by_omegaconf(cfg)
    with pytest.raises(type(theirs.value)) as ours:
        values(cfg)
    assert str(ours.value) == str(theirs.value)

"""500 single-key faults in valid configs: each is refused with its key, none ends in a trace."""

from __future__ import annotations

import random
import traceback
from pathlib import Path

import pytest
import torch
from config_faults import Fault, faults_of
from omegaconf import DictConfig, OmegaConf
from tiny import Tiny, write_data

from recap.compose import Refused, compose
from recap.compose.binding import completed
from recap.compose.nodes import section
from recap.data.synthetic import write_synthetic
from recap.experiment import prepare

NUMBER = {"tiny": 260, "local_prod": 120, "kuairand": 120}
PARTS = 5  # so that both cores have their share
KUAIRAND_FILES = [
    "train_data.inputs=${data_root}/train",
    "validation_data.valid.inputs=${data_root}/train",
]
SMALL = {
    "tiny": [],
    "local_prod": [
        "model.backbone.mlp.layer_sizes=[4]",
        "task.tower.layer_sizes=[4,1]",
        *(f"~validation_data.{name}" for name in ("train", "is_replied", "is_retweeted")),
    ],
    "kuairand": [
        "model.backbone.layer_sizes=[4]",
        "train_data.global_batch_size=8",
        *KUAIRAND_FILES,
    ],
}


@pytest.fixture(scope="module", params=SMALL)
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The name of an experiment and its config, small, on a few rows, without interpolations."""
    torch.set_num_threads(1)
    root: Path = tmp_path_factory.mktemp("data")
    if request.param == "tiny":
        write_data(root)
        cfg = Tiny(root).config()
    else:
        places = [f"data_root={root}", f"training.save_dir={root / 'run'}", "training.device=cpu"]
        cfg = compose(f"experiment={request.param}", *places, *SMALL[request.param])
        schema = section(cfg, "train_data.seg_dense_schema")
        for split in ("train", "validation"):
            write_synthetic(schema, root / split, rows=128, stream=split)
    plain = completed(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(plain, dict)
    for template in ("task", "schedule"):
        del plain[template]  # filled in; a fault in them is one in every row
    if request.param == "local_prod":
        for block in plain["model"]["backbone"]["mask_blocks"]:
            block |= {"output_size": 4, "aggregation_size": 4}
    cfg = OmegaConf.create(plain)
    prepare(cfg)
    return request.param, cfg


def wrong(fault: Fault, cfg: DictConfig) -> str | None:
    """What is wrong with the way in which ``fault`` is refused."""
    try:
        prepare(fault.inject(cfg))
    except Refused as refused:
        if any(names(line, fault) for line in refused.faults):
            return None
        return f"{fault}\n    does not name the key: {refused.faults}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{fault}\n    {type(error).__name__} in {frame.filename}:{frame.lineno}: {error}"
    return f"{fault}\n    is accepted"


def names(line: str, fault: Fault) -> bool:
    """Whether a refusal says the key's path, or the section, the row and the value it is about."""
    section, row = str(fault.path[0]), str(fault.path[-2 if len(fault.path) > 1 else -1])
    values = fault.value if isinstance(fault.value, list) else [fault.value]
    told = [section, row, *map(str, values)]
    return fault.key in line or (len(fault.path) > 2 and all(part in line for part in told))


@pytest.mark.parametrize("part", range(PARTS))
def test_every_single_fault_is_refused_with_its_key(valid: tuple[str, DictConfig], part: int):
    name, cfg = valid
    faults = list(faults_of(cfg))
    chosen = random.Random(0).sample(faults, NUMBER[name])[part::PARTS]
    assert {fault.kind for fault in chosen} >= {"misspelt", "wrong type", "out of range"}
    assert "\n".join(filter(None, (wrong(fault, cfg) for fault in chosen))) == ""


def test_the_faults_are_500_of_every_kind_and_the_same_every_time(valid: tuple[str, DictConfig]):
    assert sum(NUMBER.values()) == 500
    _, cfg = valid
    faults = list(faults_of(cfg))
    assert [str(fault) for fault in faults_of(cfg)] == [str(fault) for fault in faults]
    assert {fault.kind for fault in faults} == {"misspelt", "wrong type", "out of range", "missing"}
    assert {fault.path[0] for fault in faults} == {
        *("training", "model", "train_data", "validation_data", "optimizer", "tracking")
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_fault_on_the_command_line_is_refused_with_its_key(tiny: Tiny, seed: int):
    plain = OmegaConf.create(OmegaConf.to_container(tiny.config(), resolve=True))
    assert isinstance(plain, DictConfig)
    written = {
        "misspelt": "{key}=1",
        "wrong type": "{key}={value}",
        "out of range": "{key}={value}",
    }
    faults = [
        fault
        for fault in faults_of(plain)
        if fault.kind in written and not isinstance(fault.value, dict | list | None)
    ]
    fault = random.Random(seed).choice(faults)
    with pytest.raises(Refused) as refused:
        prepare(tiny.config(written[fault.kind].format(key=fault.key, value=fault.value)))
    assert any(names(line, fault) for line in refused.value.faults), (fault, refused.value.faults)

"""Backbones and towers chosen on the command line or in an experiment, and what comes of a task."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny import Tiny

from recap.compose import CONF, compose
from recap.compose.binding import binding_faults, completed
from recap.compose.nodes import instantiate, section
from recap.data.decode import num_slots
from recap.experiment import prepare

BACKBONES = {"mlp": "MLP", "mask_net": "MaskNet", "dcn": "DCN", "dlrm": "DLRM"}
EXPERIMENTS = ("local_prod", "kuairand")
# a choice of each group with each choice of the other is tests/model/test_networks.py
PAIRS = [("mlp", "dlrm"), ("mask_net", "dcn"), ("dcn", "mlp"), ("dlrm", "mask_net")]


def built(*overrides: str) -> Any:
    """The ranker of a command line, local_prod's without numbers; files hold ten ids."""
    cfg = compose(*overrides)
    plain = completed(OmegaConf.to_container(cfg, resolve=True))
    assert list(binding_faults(plain, "")) == []
    schema = section(cfg, "train_data.seg_dense_schema")
    for step in cfg.train_data.preprocess.values():
        schema = instantiate(step).schema(schema)
    slots = {
        name: 10 if isinstance(sparse.vocabulary, str) else num_slots(sparse)
        for name, sparse in schema.sparse.items()
    }
    with torch.device("meta" if "experiment=local_prod" in overrides else "cpu"):
        return section(cfg, "model")(schema, slots)


def kind(network: Any) -> str:
    return type(network).__name__


def test_the_choices_are_the_files():
    for group in ("backbone", "tower"):
        files = {path.stem for path in CONF.glob(f"model/{group}/*.yaml")}
        assert files - {"none"} == set(BACKBONES)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize(("backbone", "tower"), PAIRS)
def test_a_choice_of_backbone_and_of_tower_is_built_with_every_experiment(
    experiment: str, backbone: str, tower: str
):
    choices = (f"model/backbone={backbone}", f"model/tower={tower}")
    ranker = built(f"experiment={experiment}", *choices)
    assert kind(ranker.backbone) == BACKBONES[backbone]
    assert {kind(network) for network in ranker.towers.values()} == {BACKBONES[tower]}


def test_a_network_per_task_of_another_kind():
    ranker = built(
        "experiment=local_prod",
        "model/backbone=none",
        "model.multi_task_type=share_none",
        "model/tower=dlrm",
    )
    embeddings = (slice(2176, 2376), slice(2376, 2576), slice(2576, 2776))
    assert [tower.embedded for tower in ranker.towers.values()] == [embeddings] * 10


def test_what_a_task_states_of_another_kind_of_tower_is_set_aside():
    cfg = compose("experiment=local_prod", "model/tower=mask_net")
    assert "dropout" not in cfg.model.tasks.is_negative_feedback_v2.tower
    as_it_is = compose("experiment=local_prod")
    assert as_it_is.model.tasks.is_negative_feedback_v2.tower.dropout == 0.1


def test_what_a_task_states_of_its_own_kind_of_tower_is_kept(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [local_prod, override /model/tower: dcn]\n"
        "model:\n"
        "  tasks:\n"
        "    is_replied: {tower: {poly_degree: 4, output_mlp: {dropout: 0.3}}}\n"
    )
    cfg = compose(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    tower = cfg.model.tasks.is_replied.tower
    assert (tower.poly_degree, tower.output_mlp.dropout) == (4, 0.3)
    assert tower.output_mlp.layer_sizes == cfg.task.tower.output_mlp.layer_sizes
    assert cfg.model.tasks.is_favorited.tower.poly_degree == cfg.task.tower.poly_degree == 2
    assert "dropout" not in cfg.model.tasks.is_report_tweet_clicked.tower


@pytest.mark.parametrize(
    "own",
    [
        "+model/tower@model.tasks.is_negative_feedback_v2.tower=dcn",
        "++model.tasks.is_negative_feedback_v2.tower={_target_: recap.model.dcn.DCN,"
        " _partial_: true, poly_degree: 1,"
        " output_mlp: {_target_: recap.model.mlp.MLP, _partial_: true, layer_sizes: [1]}}",
    ],
)
def test_one_task_has_another_kind_of_tower(own: str):
    dropout = ["~model.tasks.is_negative_feedback_v2.tower.dropout"] if "++" in own else []
    ranker = built("experiment=local_prod", *dropout, own)
    kinds = {task: kind(tower) for task, tower in ranker.towers.items()}
    assert kinds == {**dict.fromkeys(ranker.tasks, "MLP"), "is_negative_feedback_v2": "DCN"}
    # the other tasks' own settings stand
    assert ranker.towers["is_report_tweet_clicked"].layers[3].p == 0.2


def test_chosen_networks_train(tiny: Tiny):
    tiny.train(
        "model/backbone=dlrm",
        "model/tower=dcn",
        "+model/tower@model.tasks.follow.tower=mask_net",
        "model.multi_task_type=share_partial",
        "training.num_train_steps=3",
    )
    losses = tiny.logged()["loss"]
    assert sorted(losses) == [1, 2, 3]
    assert all(map(math.isfinite, losses.values()))


def test_the_weights_of_a_task_reach_the_loss(tiny: Tiny):
    own = ("model.tasks.follow.pos_weight=3", "model.tasks.reply.loss_weight=0.5")
    loss = prepare(tiny.config(*own)).loss
    logits, labels = torch.zeros(1, 3), torch.ones(1, 3)
    total, of_tasks = loss(logits, labels)
    # a logit of 0 costs log(2)
    torch.testing.assert_close(of_tasks, math.log(2) * torch.tensor([1.0, 3.0, 1.0]))
    assert total.item() == pytest.approx(math.log(2) * (1 + 3 + 0.5) / 3)

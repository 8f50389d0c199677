"""The whole way from the original: its configuration, its TFRecords, two steps of training."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from recap import checkpoint
from recap.compose import compose
from recap.convert_config import main
from recap.data.convert.tfrecord_files import convert_tfrecords
from recap.trainer import train

GOLDEN = Path(__file__).parents[2] / "shared/golden"

ORIGINAL = """
training: {num_train_steps: 2, num_eval_steps: -1, checkpoint_every_n: 1, train_log_every_n: 1}
model:
  multi_task_type: share_all
  featurization_config:
    double_norm_log_config:
      batch_norm_config: {affine: true, momentum: 0.01}
      layer_norm_config: {epsilon: 0.0}
  backbone:
    mask_net_config:
      mask_blocks: [{output_size: 6, reduction_factor: 0.5, input_layer_norm: false}]
      use_parallel: true
  tasks:
    fav: &tower {mlp_config: {layer_sizes: [4, 1], batch_norm: {affine: false, momentum: 0.1}}}
    reply: *tower
train_data: &data
  inputs: "${RECAP_TEST_RECORDS}/*.gz"
  global_batch_size: 4
  seg_dense_schema:
    schema_path: ${RECAP_TEST_RECORDS}/segdense.json
    features: [meta.user_id]
    renamed_features: {continuous: cont, binary: bin, discrete: disc, user_embedding: emb}
  tasks: {reply: {}, fav: {}}
  preprocess: {truncate_and_slice: {continuous_feature_truncation: 5, binary_feature_truncation: 3}}
validation_data:
  valid: *data
optimizer:
  adam: {beta_1: 0.95}
  multi_task_learning_rates:
    backbone_learning_rate: &rate {constant: 0.01}
    tower_learning_rates: {fav: *rate, reply: *rate}
"""


def test_a_converted_configuration_trains_two_steps_on_converted_tfrecords(
    tmp_path: Path, monkeypatch, capsys
):
    if not GOLDEN.exists():
        pytest.skip(f"the golden numbers are not at {GOLDEN}")
    records, rows = tmp_path / "records", tmp_path / "rows"
    records.mkdir()
    index = json.loads((GOLDEN / "index.json").read_text())["files"]["tiny.tfrecord.gz"]
    described = {"schema": index["schema"]}
    (records / "segdense.json").write_text(json.dumps(described))
    shutil.copy(GOLDEN / "tiny.tfrecord.gz", records / "part-0.gz")
    with gzip.open(GOLDEN / "tiny.tfrecord.gz") as file:
        (records / "part-1.gz").write_bytes(gzip.compress(file.read()))
    monkeypatch.setenv("RECAP_TEST_RECORDS", str(records))
    (tmp_path / "original.yaml").write_text(ORIGINAL)
    assert yaml.safe_load(ORIGINAL)["train_data"]["inputs"] == "${RECAP_TEST_RECORDS}/*.gz"

    written = tmp_path / "experiment/mine.yaml"
    assert main([str(tmp_path / "original.yaml"), "-o", str(written)]) == 0
    told = capsys.readouterr().err
    assert "trains 2 of 2 towers on another task's label and weight: fav on reply, reply on" in told
    report = convert_tfrecords(
        f"{records}/*.gz", str(rows), seg_dense_schema=str(records / "segdense.json"), processes=1
    )
    assert report.faults == []
    assert sum(report.rows.values()) == 18
    cfg = compose(
        f"hydra.searchpath=[file://{tmp_path}]",
        "experiment=mine",
        f"data_root={rows}",
        f"training.save_dir={tmp_path / 'run'}",
        "training.device=cpu",
        "tracking=none",
    )
    train(cfg)
    steps = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert steps == ["step-00000001", "step-00000002"]
    latest = checkpoint.latest(tmp_path / "run")
    assert latest is not None
    weights = checkpoint.load(latest)["model"]
    assert weights["inputs.featurization.batch_norm.weight"].shape == (5,)
    assert weights["inputs.user_embeddings.layer_norms.user_embedding.weight"].shape == (5,)
    assert weights["backbone.mask_blocks.0.mask_layer.0.weight"].shape == (6, 5 + 3 + 5)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())

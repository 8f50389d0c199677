"""Configurations of the original as experiments here: the same numbers, and what was wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from recap.binding import binding_faults, completed
from recap.compose import compose
from recap.convert_config import main

LOCAL_PROD = Path(__file__).parent / "original/local_prod.yaml"
GOLDEN = Path(__file__).parents[2] / "shared/golden"


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    """The experiment ``mine`` in ``folder/experiment``, every ``_target_`` told."""
    cfg = compose(f"hydra.searchpath=[file://{folder}]", "experiment=mine", *overrides)
    plain = OmegaConf.to_container(cfg, resolve=True)
    plain = completed(plain)
    assert list(binding_faults(plain, "")) == []
    return plain


def convert(folder: Path, original: Any, *options: str) -> int:
    """The command on a configuration as plain dicts."""
    source = folder / "original.yaml"
    source.write_text(original if isinstance(original, str) else yaml.safe_dump(original))
    return main([str(source), "-o", str(folder / "experiment/mine.yaml"), *options])


def same(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two composed configs differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = dict.fromkeys([*ours, *theirs])
        return [
            line
            for key in keys
            for line in same(ours.get(key, "-"), theirs.get(key, "-"), f"{path}.{key}")
        ]
    return [] if ours == theirs else [f"{path}: {ours} and {theirs}"]


def test_local_prod_composes_to_this_projects_local_prod(tmp_path: Path):
    assert convert(tmp_path, LOCAL_PROD.read_text()) == 0
    ours = composed(tmp_path, "data_root=D")
    theirs = completed(OmegaConf.to_container(compose("data_root=D"), resolve=True))
    for task in theirs["model"]["tasks"].values():
        task["score_weight"] = 0.0  # the original's configuration has none
    assert same(ours["model"], theirs["model"]) == []
    assert list(ours["model"]["tasks"]) == list(theirs["model"]["tasks"])
    assert list(ours["model"]["inputs"]) == list(theirs["model"]["inputs"])
    assert same(ours["optimizer"], theirs["optimizer"]) == []
    assert same(ours["task"], theirs["task"] | {"score_weight": 0.0}) == []
    ours["training"].pop("save_dir")
    theirs["training"].pop("save_dir")
    assert same(ours["training"], theirs["training"]) == []
    for name, length in (("author", 1), ("user", 1), ("tweet", 1)):
        meta = ours["train_data"]["seg_dense_schema"]["dense"].pop(f"meta__{name}_id", {})
        assert (meta["column"], meta["length"]) == (f"meta.{name}_id", length)
    assert list(ours["validation_data"]) == list(theirs["validation_data"])
    for name, partition in ours["validation_data"].items():
        partition["inputs"] = theirs["validation_data"][name]["inputs"]  # one folder there
        own = theirs["train_data"]["seg_dense_schema"]
        assert partition["seg_dense_schema"]["labels"] == own["labels"]
        partition["seg_dense_schema"] = own
    assert ours["train_data"].pop("inputs") == "D/*.parquet"
    theirs["train_data"].pop("inputs")
    assert same(ours["train_data"], theirs["train_data"]) == []
    assert same(ours["validation_data"], theirs["validation_data"]) == []


def test_what_is_wrong_with_local_prod_is_told_and_stands_in_the_file(tmp_path: Path, capsys):
    assert convert(tmp_path, LOCAL_PROD.read_text()) == 0
    told = capsys.readouterr().err
    head = (tmp_path / "experiment/mine.yaml").read_text().split("\n\n")[0]
    assert head.startswith(
        "# @package _global_\n# Converted by python -m recap.convert_config from"
    )
    flat = " ".join(head.replace("\n#", " ").split())
    for part in (
        "trains 10 of 10 towers on another task's label and weight: is_favorited on is_bookmarked,",
        "is_video_playback_50 on is_retweeted; here they are joined by name",
        "the original's calibration never reads the rates of partitions",
        "is_report_tweet_clicked 1/1.4e-05",
        "epsilon=0: a constant row gives NaN there",
        "dataset_service_compression=AUTO: no counterpart here",
        "'convert.inputs=${HOME}/data/local_prod/*.gz'",
    ):
        assert part in told
        assert part in flat

"""The commands that a converted configuration names, as a shell and Hydra read them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_convert_config import SEGDENSE, minimal, write_segdense

from recap.convert_config import convert
from recap.original.data import parquet_name
from recap.original.next_steps import argument
from recap.original.reading import Told


def words(command: str) -> list[str]:
    """The words of a command as a shell hands them on."""
    script = f"printf '%s\\0' {command}"
    return subprocess.check_output(["bash", "-c", script], cwd="/", text=True).split("\0")[:-1]


HOME = "\ue000RECAP_TEST_HOME\ue001"  # as `read` marks a reference to the environment


@pytest.mark.parametrize(
    "path",
    [
        "in/**/*.gz",
        f"{HOME}/data/*.gz",
        f"{HOME}/my data, (old) [1]/{{a}}/*.gz",
        "it's/~x=1/*.gz",
        'say "hi"/`id`/a$b/\\\\',
        f'{HOME}/say "hi"/`id`/a$b/it\\\'s',
        "gs://bucket/part-?.gz",
    ],
)
def test_an_argument_passes_the_shell_and_hydra(path: str, monkeypatch):
    monkeypatch.setenv("RECAP_TEST_HOME", "/home/me and you")
    (word,) = words(argument("convert.inputs", path))
    override = OverridesParser.create().parse_override(word)
    assert override.value() == path.replace(HOME, "/home/me and you")


def commands(config: dict[str, Any], schema: Path) -> list[list[str]]:
    """The words of every conversion that is told of a configuration."""
    told = Told()
    assert convert(yaml.safe_dump(config), told, schema=schema) is not None, told.faults
    (finding,) = (line for line in told.findings if "TFRecords there" in line)
    lines = finding.removeprefix("train_data: TFRecords there, Parquet here: ").split("; ")
    assert lines[-1] == "then data_root=FOLDER"
    return [words(line)[-3:] for line in lines[:-1]]


def test_every_source_of_data_has_its_conversion_into_the_folder_it_is_read_from(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("RECAP_TEST_HOME", "/home/me")
    schema = write_segdense(tmp_path / "segdense.json", SEGDENSE)
    config = minimal()
    data = config["train_data"]
    data["seg_dense_schema"]["renamed_features"] = {"continuous": "cont", "binary": "bin"}
    data["inputs"] = "${RECAP_TEST_HOME}/train/*.gz"
    config["validation_data"] = {
        "same": data,
        "below": data | {"inputs": "${RECAP_TEST_HOME}/train/last/*.gz"},
        "elsewhere": data | {"inputs": "${RECAP_TEST_HOME}/valid/*.gz"},
    }
    described = f"convert.seg_dense_schema={schema}"
    home = "convert.inputs=/home/me"
    assert commands(config, schema) == [
        [f"{home}/train/*.gz", described, "convert.target=FOLDER"],
        [f"{home}/train/last/*.gz", described, "convert.target=FOLDER/last"],
        [f"{home}/valid/*.gz", described, "convert.target=/home/me/valid"],
    ]
    dates = {"data_root": "/data/", "end_date": "2023-01-31", "days": 2}
    data |= {"inputs": None, "explicit_date_inputs": dates}
    del config["validation_data"]["elsewhere"]
    below = config["validation_data"]["below"]
    below |= {"inputs": "/data/more/*.gz"}
    assert commands(config, schema) == [
        ["convert.inputs=/data/**/*.gz", described, "convert.target=FOLDER"]
    ]


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("in/*.gz", "in/*.parquet"),
        ("in/*.tfrecord.gz", "in/*.parquet"),
        ("in/*.tfrecord*", "in/*.parquet"),
        ("in/part-*", "in/part-*.parquet"),
        ("in/*.*", "in/*.parquet"),
        ("in/a.tfrecords", "in/a.parquet"),
    ],
)
def test_a_glob_of_tfrecords_finds_the_files_made_of_them(there: str, here: str):
    assert parquet_name(there) == here

"""``python -m recap.convert_config FILE.yaml``: the original's configuration as an experiment.

    python -m recap.convert_config local_prod.yaml -o experiments/mine.yaml
    python -m recap.train experiment=mine data_root=data/mine

The written file is an experiment of its own, with data, model, optimizer, rates and training, and
tells in its head what is wrong with what it was made of; that is printed, too. In a folder of your
own, ``FOLDER/experiment/mine.yaml``, it runs with ``--config-dir FOLDER``.

What the files hold is read from the configuration's ``schema_path``, or from ``--schema``; a path
that is not there is looked for by its file name beside the configuration. Where there is none,
features of local_prod's names have local_prod's lengths.

Ends with 1, and writes nothing, where it cannot be converted; every reason is told. A file that is
there already is kept, unless ``--force`` is given.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from recap.data.convert.segdense import read_segdense
from recap.original import sections
from recap.original.data import Columns, our_name, source_of
from recap.original.data import data as data_sections
from recap.original.findings import findings, joining_faults
from recap.original.next_steps import conversions
from recap.original.reading import Told, expanded, interpolated, read, shown, unset

_DTYPES = {"float_list": "float32", "int64_list": "int64", "bytes_list": "bytes"}


def convert(
    text: str, told: Told, *, schema: Path | None = None, beside: Path | None = None
) -> dict[str, Any] | None:
    """The experiment that the original's configuration ``text`` describes; None if it has faults.

    ``schema`` is a segdense.json to take instead of the configuration's, which is looked for in the
    folder ``beside`` where it is not at its path. What is to be said of it is added to ``told``.
    """
    config = read(text, told)
    told.faults += joining_faults(config)
    if told.faults:
        return None
    described = config["train_data"]["seg_dense_schema"]
    if schema is None and (schema := _beside(described["schema_path"], beside)) is not None:
        told.findings.append(
            f"train_data.seg_dense_schema.schema_path={described['schema_path']} cannot be read "
            f"here; {schema}, beside this configuration, is read in its place"
        )
    data = data_sections(config, _columns(described["schema_path"], schema, told), told)
    told.findings[:0] = findings(config)
    embeddings = [our_name(name) for name in described["renamed_features"]]
    choices, model, task = sections.model(config["model"], embeddings, told)
    more, optimizer, schedule = sections.optimizer(config["optimizer"], config["model"], told)
    if told.faults:
        return None
    described_by = described["schema_path"] if schema is None else str(schema)
    commands = list(conversions(config, described_by))
    told.findings.append(
        f"train_data: TFRecords there, Parquet here: {'; '.join(commands)}; then data_root=FOLDER"
    )
    defaults: list[Any] = [{"override /data": None}]
    for choice in choices + more:
        group, _, name = choice.partition(": ")
        defaults.append({f"override /{group}": name})
    out = {
        "defaults": defaults,
        **data,
        "training": sections.training(config["training"], told),
        "task": task,
        "model": model,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    needed = unset(out)
    rows = (config["train_data"], *config["validation_data"].values())
    for name in sorted(needed | unset([described_by, *map(source_of, rows)])):
        what = "a run" if name in needed else "that conversion"
        told.findings.append(f"the environment variable {name} is not set here; {what} needs it")
    return out


def written(experiment: Mapping[str, Any], source: str, findings: list[str]) -> str:
    """The experiment's file: its head, what was found, its values."""
    head = ["@package _global_", f"Converted by python -m recap.convert_config from {source}."]
    if findings:
        head.append("What is to be said of that configuration:")
    for finding in findings:
        head += textwrap.wrap(
            shown(finding), 96, initial_indent="- ", subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    lines = [f"# {line}" for line in head]
    for key, value in _plain(experiment).items():
        block = yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, width=100)
        lines += ["", block.rstrip()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recap.convert_config",
        description="Turns a configuration of the original recap into an experiment file.",
    )
    parser.add_argument("file", type=Path, help="the original's YAML file, as it is")
    parser.add_argument("-o", "--output", type=Path, help="file to write; else it is printed")
    parser.add_argument("--schema", type=Path, help="segdense.json, instead of its schema_path")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    given = parser.parse_args(arguments)
    told = Told()
    if given.output is not None and given.output.is_file() and not given.force:
        print(f"{given.output} is there already; --force overwrites it", file=sys.stderr)
        return 1
    try:
        text = given.file.read_text()
        experiment = convert(text, told, schema=given.schema, beside=given.file.parent)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        told.faults.append(f"cannot be read: {reason}")
        experiment = None
    for finding in told.findings:
        print(f"{given.file.name}: {shown(finding)}", file=sys.stderr)
    if experiment is None:
        for fault in dict.fromkeys(told.faults):
            print(f"{given.file.name} cannot be converted: {shown(fault)}", file=sys.stderr)
        return 1
    text = written(experiment, given.file.name, told.findings)
    if given.output is None:
        print(text, end="")
        return 0
    try:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text)
    except OSError as error:
        print(f"{given.output} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{given.output} is written, {len(told.findings)} things found", file=sys.stderr)
    return 0


def _beside(named: str, folder: Path | None) -> Path | None:
    """The file of that name in ``folder``, where there is none at the path ``named``."""
    path = Path(expanded(named))
    if folder is None or path.is_file() or not (folder / path.name).is_file():
        return None
    return folder / path.name


def _columns(named: str, given: Path | None, told: Told) -> Columns | None:
    """What the files hold, by segdense.json; None where the configuration's cannot be read."""
    path = given or Path(expanded(named))
    if given is None and not path.is_file():
        return None
    try:
        features = read_segdense(path)
    except ValueError as error:
        told.faults += str(error).splitlines()
        return {}
    return {each.name: (_DTYPES[each.kind], each.length) for each in features}


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return interpolated(node)


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, mappings and lists of plain values in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        """Every value is written where it stands."""
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        """Lists of plain values in brackets."""
        return super().represent_sequence(tag, sequence, flow_style=_flat(sequence))

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> Any:
        """Short mappings of plain values in braces."""
        values = list(mapping.values())
        short = _flat(values) and "_partial_" not in mapping and len(values) > 1
        short = short and len(str(mapping)) < 100
        return super().represent_mapping(tag, mapping, flow_style=short)


def _flat(values: Any) -> bool:
    return not any(isinstance(value, dict | list) and value for value in values)


if __name__ == "__main__":
    sys.exit(main())

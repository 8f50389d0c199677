"""The command: writes the file that the composed config's ``statistics`` section says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recap.data.files import DataError
from recap.data.layout import unwritable
from recap.data.parquet import ParquetData
from recap.data.statistics.columns import Statistics, merged, statistics_of, summary
from recap.data.statistics.file import read_statistics, write_statistics


def run(cfg: Any) -> None:
    """Writes the file and prints a summary; refuses with every fault of the settings."""
    from omegaconf import OmegaConf

    from recap.compose import Refused

    settings: dict[str, Any] = OmegaConf.to_container(cfg.statistics, resolve=True)  # pyright: ignore[reportAssignmentType]
    if faults := list(_setting_faults(settings)):
        raise Refused(faults)
    try:
        if (parts := _listed(settings["merge"])) is not None:
            statistics = _merged(parts)
        else:
            inputs = _listed(settings["inputs"])
            statistics = statistics_of(_data(cfg, inputs), inputs=inputs)
        write_statistics(statistics, settings["target"])
    except ValueError as error:
        raise Refused(str(error).splitlines()) from error
    except OSError as error:  # the disk has filled up meanwhile
        raise Refused([f"statistics.target={settings['target']}: {error}"]) from error
    print(f"{summary(statistics)}\nwritten to {settings['target']}")


def _setting_faults(settings: Mapping[str, Any]) -> Iterator[str]:
    target = settings["target"]
    place = f"statistics.target={target}"
    if not isinstance(target, str):
        yield f"statistics.target={target!r}: must be the path of the file to write"
    elif Path(target).is_dir():
        yield f"{place}: is a folder; name the file to write, e.g. {target}/statistics.parquet"
    elif fault := unwritable(Path(target).parent):
        yield f"{place}: {fault}"
    for key in ("inputs", "merge"):
        value = settings[key]
        names = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(name, str) for name in names):
            yield f"statistics.{key}={value!r}: must be null, a name or a list of names"


def _merged(paths: Sequence[str]) -> Statistics:
    """Of the rows of all files together.

    Raises:
        ValueError: all that is wrong with them.
    """
    parts, faults = [], []
    for path in paths:
        try:
            parts.append(read_statistics(path))
        except DataError as error:
            faults.append(f"statistics.merge: {error}")
    if faults:
        raise ValueError("\n".join(faults))
    try:
        return merged(parts)
    except ValueError as error:
        place = "statistics." if str(error).startswith("merge=") else "statistics.merge: "
        raise ValueError(f"{place}{error}") from error


def _data(cfg: Any, inputs: list[str] | None) -> ParquetData:
    """``train_data`` as it is composed, whose files hold these inputs.

    Raises:
        ValueError: all that keeps them from being read.
    """
    from recap.compose.nodes import section

    data: ParquetData = section(cfg, "train_data")
    dense = data.schema.dense
    faults = [
        f"statistics.inputs: no dense input {name}; there is {', '.join(dense) or 'none'}"
        for name in inputs or ()
        if name not in dense
    ]
    try:
        lacking = [f"train_data.seg_dense_schema: {fault}" for fault in data.faults((), inputs)]
    except (ValueError, OSError) as error:  # OSError: a far file system that does not answer
        lacking = [f"train_data.{data.named_by}: {line}" for line in str(error).splitlines()]
    else:
        if lacking and inputs is None:
            hint = "statistics.inputs=null reads every dense input; it may name those to read"
            lacking.append(hint)
    if faults := [*faults, *lacking]:
        raise ValueError("\n".join(faults))
    return data


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    return [names] if isinstance(names, str) else list(names)


def main() -> None:
    """Writes the file that the composed config's ``statistics`` section says."""
    from recap.compose import hydra_command

    hydra_command("statistics")(run)()

"""The command: writes the file that the composed config's ``statistics`` section says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recap.data.parquet import ParquetData
from recap.data.statistics.columns import merged, statistics_of, summary
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
            statistics = merged(read_statistics(path) for path in parts)
        else:
            inputs = _listed(settings["inputs"])
            statistics = statistics_of(_data(cfg, inputs), inputs=inputs)
    except ValueError as error:
        raise Refused(str(error).splitlines()) from error
    write_statistics(statistics, settings["target"])
    print(f"{summary(statistics)}\nwritten to {settings['target']}")


def _setting_faults(settings: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(settings["target"], str):
        yield f"statistics.target={settings['target']!r}: must be the path of the file to write"
    for key in ("inputs", "merge"):
        value = settings[key]
        names = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(name, str) for name in names):
            yield f"statistics.{key}={value!r}: must be null, a name or a list of names"


def _data(cfg: Any, inputs: list[str] | None) -> ParquetData:
    """``train_data`` as it is composed, whose files hold these inputs."""
    from recap.compose import Refused
    from recap.nodes import section

    data: ParquetData = section(cfg, "train_data")
    if faults := data.faults((), inputs):
        hint = "statistics.inputs=null reads every dense input; it may name those to read"
        raise Refused(faults if inputs else [*faults, hint])
    return data


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    return [names] if isinstance(names, str) else list(names)


def main() -> None:
    """Writes the file that the composed config's ``statistics`` section says."""
    from recap.compose import hydra_command

    hydra_command("statistics")(run)()

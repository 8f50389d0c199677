"""The command: what the composed config's ``convert`` section says, tables or TFRecords."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recap.data.convert.reshape import Join
from recap.data.convert.tables import convert
from recap.data.layout import unwritable


def _convert_splits(cfg: Any) -> None:
    from omegaconf import OmegaConf

    from recap.compose import Refused
    from recap.compose.nodes import keyed, section

    settings: dict[str, Any] = OmegaConf.to_container(cfg.convert, resolve=True)  # pyright: ignore[reportAssignmentType]
    settings.pop("download", None)  # stands in the choice's other paths
    pack = settings.pop("pack")
    splits = settings.pop("splits") or {settings["name"]: {}}
    try:
        schema = section(cfg, "train_data.seg_dense_schema") if pack else None
        joins = {name: Join(**join) for name, join in settings.pop("joins").items()}
        for name, conditions in splits.items():
            own = {**settings, "name": name, "where": {**settings["where"], **conditions}}
            report = convert(**own, joins=joins, schema=schema)
            print(report.table())
            if report.schema is not None:
                for group, dense in report.schema.dense.items():
                    print(f"{group}: column {dense.column}, length {dense.length}, {dense.dtype}")
    except ValueError as error:
        raise Refused(keyed("convert", error, cfg.convert)) from error


def _convert(cfg: Any) -> None:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from recap.compose import Refused
    from recap.compose.nodes import keyed

    if faults := list(_faults(cfg.convert)):
        raise Refused(faults)
    if "_target_" not in cfg.convert:
        return _convert_splits(cfg)
    try:
        report = instantiate(cfg.convert, _convert_="object")
    except InstantiationException as error:  # Hydra's words around the function's own
        if not isinstance(error.__cause__, ValueError | OSError):
            raise
        raise Refused(keyed("convert", error.__cause__, cfg.convert)) from error
    print(report.table())
    if report.faults:
        raise Refused(report.faults)


def _faults(section: Any) -> Iterator[str]:
    """What is missing and what cannot be, by the values alone."""
    from omegaconf import OmegaConf

    from recap.compose.binding import binding_faults

    missing = sorted(key for key in section if OmegaConf.is_missing(section, key))
    yield from (f"convert.{key}: missing" for key in missing)
    if missing:
        return
    plain: Any = OmegaConf.to_container(section, resolve=True)
    if "_target_" in plain:
        yield from binding_faults(plain, "convert")
    target = plain.get("target")
    if isinstance(target, str) and (fault := unwritable(Path(target))):
        yield f"convert.target={target}: {fault}"


def main() -> None:
    """Converts what the composed config's ``convert`` section says."""
    from recap.compose import hydra_command

    hydra_command("convert")(_convert)()

"""The command: what the composed config's ``convert`` section says, tables or TFRecords."""

from __future__ import annotations

from typing import Any

from recap.data.convert.reshape import Join
from recap.data.convert.tables import convert


def _convert_splits(cfg: Any) -> None:
    from omegaconf import OmegaConf

    from recap.compose import Refused
    from recap.nodes import section

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
        raise Refused(str(error).splitlines()) from error


def _convert(cfg: Any) -> None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from recap.binding import binding_faults
    from recap.compose import Refused

    if "_target_" not in cfg.convert:
        return _convert_splits(cfg)
    missing = sorted(key for key in cfg.convert if OmegaConf.is_missing(cfg.convert, key))
    faults = [f"convert.{key}: missing" for key in missing]
    plain = OmegaConf.to_container(cfg.convert, resolve=True)
    if faults := faults or list(binding_faults(plain, "convert")):
        raise Refused(faults)
    try:
        report = instantiate(cfg.convert, _convert_="object")
    except ValueError as error:
        raise Refused(str(error).splitlines()) from error
    print(report.table())
    if report.faults:
        raise Refused(report.faults)


def main() -> None:
    """Converts what the composed config's ``convert`` section says."""
    from recap.compose import hydra_command

    hydra_command("convert")(_convert)()

"""The command: writes every split of the composed config's ``synthetic`` section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap.data.synthetic.data_set import write_synthetic


def _rows_of_splits(rows: int, splits: Mapping[str, float]) -> dict[str, int]:
    """Rows per split; refused unless the shares add up to 1."""
    if abs(sum(splits.values()) - 1) > 1e-9 or min(splits.values()) <= 0:
        raise ValueError(
            f"synthetic.splits={dict(splits)}: the shares must be above 0 and add up to 1"
        )
    return {name: round(rows * share) for name, share in splits.items()}


def _write_splits(cfg: Any) -> None:
    from recap.compose import Refused

    try:
        _write_all(cfg)
    except (ValueError, FileExistsError) as error:
        raise Refused(str(error).splitlines()) from error


def _write_all(cfg: Any) -> None:
    from omegaconf import OmegaConf

    from recap.nodes import section

    schema = section(cfg, "train_data.seg_dense_schema")
    settings: dict[str, Any] = OmegaConf.to_container(cfg.synthetic, resolve=True)  # pyright: ignore[reportAssignmentType]
    directory = Path(settings.pop("directory"))
    rows = _rows_of_splits(settings.pop("rows"), settings.pop("splits"))
    for split, count in rows.items():
        report = write_synthetic(schema, directory / split, rows=count, stream=split, **settings)
        how = "already there"
        if not report.already_there:
            how = f"{report.seconds:.1f} s, {report.num_bytes / 1e6 / report.seconds:.0f} MB/s"
        print(f"\n{report.directory}: {report.rows} rows, {report.num_bytes / 1e6:.0f} MB ({how})")
        print(report.table())


def main() -> None:
    """Writes the data set of the composed config's ``synthetic`` section."""
    from recap.compose import hydra_command

    hydra_command("synthetic")(_write_splits)()

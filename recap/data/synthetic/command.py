"""The command: writes every split of the composed config's ``synthetic`` section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recap.data.synthetic.data_set import write_synthetic


def _rows_of_splits(rows: int, splits: Mapping[str, float], files: int) -> dict[str, int]:
    """Rows per split.

    Raises:
        ValueError: the shares do not add up to 1, or a split has fewer rows than files.
    """
    faults = []
    for name, number in (("rows", rows), ("files", files)):
        if not isinstance(number, int) or number < 1:
            faults.append(f"synthetic.{name}={number} must be a number of 1 or more")
    if abs(sum(splits.values()) - 1) > 1e-9 or min(splits.values()) <= 0:
        faults.append(
            f"synthetic.splits={dict(splits)}: the shares must be above 0 and add up to 1"
        )
    counts = {} if faults else {name: round(rows * share) for name, share in splits.items()}
    for name, count in counts.items():
        if count < files:
            faults.append(
                f"synthetic.rows={rows} must be more: splits.{name}={splits[name]} of them is "
                f"{count}, and files={files} need a row each"
            )
    if faults:
        raise ValueError("\n".join(faults))
    return counts


def write_splits(cfg: Any) -> None:
    """Writes every split and prints what a model can reach on it; refuses with its faults."""
    from recap.compose import Refused
    from recap.compose.nodes import keyed

    try:
        _write_all(cfg)
    except (ValueError, FileExistsError) as error:
        raise Refused(keyed("synthetic", error, cfg.synthetic)) from error


def _write_all(cfg: Any) -> None:
    from omegaconf import OmegaConf

    from recap.compose.nodes import section

    schema = section(cfg, "train_data.seg_dense_schema")
    settings: dict[str, Any] = OmegaConf.to_container(cfg.synthetic, resolve=True)  # pyright: ignore[reportAssignmentType]
    directory = Path(settings.pop("directory"))
    rows = _rows_of_splits(settings.pop("rows"), settings.pop("splits"), settings["files"])
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

    hydra_command("synthetic")(write_splits)()

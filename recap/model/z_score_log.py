"""Continuous columns in standard deviations, on the log scale, from statistics of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model.dense import DenseInputs
from recap.model.featurization import check_clip_magnitude, check_names, log1p_abs
from recap.model.norm import BatchNorm
from recap.schema import Schema

MADE_BY = "python -m recap.data.statistics"


class ZScoreLog(nn.Module):
    """Z-scores of the continuous columns' logarithms, then ``feature_names_to_concat`` as they are.

    Non-finite → 0; x → sign(x)·log(1 + abs(x)); less the column's mean, over its standard
    deviation; clamp to ±``clip_magnitude``; batch norm, if any. Mean and deviation are those of the
    logarithms in ``statistics_path``, a file that ``python -m recap.data.statistics`` writes. A
    column that is constant there, or varies by less than float32 can tell (a deviation of at most
    1.2e-7 times the mean), or has no finite number, is 0.

    The numbers are part of the model's state: a checkpoint brings its own. ``num_slots`` is not
    read: every input of a ranker is built by the same call.

    Raises:
        ValueError: the file cannot be read, or is not of the schema's columns.
    """

    mean: Tensor  # [C]
    inverse_std: Tensor  # [C], 0 for a constant column

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        statistics_path: str,
        continuous_feature_names: Sequence[str] = ("continuous",),
        feature_names_to_concat: Sequence[str] = ("binary",),
        clip_magnitude: float = 5.0,
        batch_norm_config: BatchNorm | None = None,
    ) -> None:
        super().__init__()
        check_names(continuous_feature_names, feature_names_to_concat)
        check_clip_magnitude(clip_magnitude)
        self.clip_magnitude = clip_magnitude
        self.continuous = DenseInputs(schema, continuous_feature_names)
        self.unchanged = DenseInputs(schema, feature_names_to_concat)
        width = self.continuous.out_features
        self.out_features = width + self.unchanged.out_features
        widths = {name: schema.dense[name].width for name in continuous_feature_names}
        mean, std = _read(statistics_path, widths)
        told = std > np.finfo(np.float32).eps * np.abs(mean)
        inverse_std = np.divide(1.0, std, out=np.zeros_like(std), where=told)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.get_default_dtype()))
        self.register_buffer("inverse_std", torch.tensor(inverse_std, dtype=self.mean.dtype))
        self.batch_norm = batch_norm_config.over(width) if batch_norm_config else nn.Identity()

    def forward(self, batch: Batch) -> Tensor:
        """The features, [B, out_features]."""
        scores = (log1p_abs(self.continuous(batch)) - self.mean) * self.inverse_std
        clipped = scores.clamp(-self.clip_magnitude, self.clip_magnitude)
        return torch.cat([self.batch_norm(clipped), self.unchanged(batch)], dim=1)


def _read(path: str, widths: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations [C] of the logarithms of these inputs' columns, input after input."""
    wanted = ["input", "index", "log1p_abs_mean", "log1p_abs_std"]
    try:
        lacking = [name for name in wanted if name not in pq.read_schema(path).names]
        table = None if lacking else pq.read_table(path, columns=wanted)
    except FileNotFoundError as error:
        raise ValueError(f"statistics_path={path}: no such file; {MADE_BY} writes it") from error
    except (OSError, pa.ArrowException) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"statistics_path={path}: not a file that {MADE_BY} writes ({first_line})"
        ) from error
    if table is None:
        raise ValueError(
            f"statistics_path={path}: not a file that {MADE_BY} writes; "
            f"it has no column {', '.join(lacking)}"
        )
    inputs = table.column("input").to_numpy()
    index, mean, std = (table.column(name).to_numpy() for name in wanted[1:])
    faults, rows = [], []
    for name, width in widths.items():
        own = np.flatnonzero(inputs == name)
        own = own[np.argsort(index[own])]
        rows.append(own)
        if not len(own):
            there = ", ".join(dict.fromkeys(inputs)) or "none"
            faults.append(f"it has no statistics of {name}; it has those of {there}")
        elif index[own].tolist() != list(range(width)):
            faults.append(f"it has {len(own)} columns of {name}, the schema leaves {width}")
    if faults:
        raise ValueError(
            f"statistics_path={path}: {'; '.join(faults)}; "
            f"{MADE_BY} with the same train_data makes them fit"
        )
    chosen = np.concatenate(rows)
    return np.nan_to_num(mean[chosen]), np.nan_to_num(std[chosen])

"""Statistics of every dense column of a data set, in one pass, for inputs that are scaled by them.

    python -m recap.data.statistics experiment=local_prod data_root=data/local_prod
    python -m recap.data.statistics statistics.merge=[a.parquet,b.parquet] statistics.target=c

What the file holds is told in :mod:`recap.data.statistics.file`.
"""

from recap.data.statistics.columns import Columns, log1p_abs, merged, statistics_of, summary
from recap.data.statistics.command import main
from recap.data.statistics.file import read_statistics, write_statistics
from recap.data.statistics.moments import Moments

__all__ = [
    "Columns",
    "Moments",
    "log1p_abs",
    "main",
    "merged",
    "read_statistics",
    "statistics_of",
    "summary",
    "write_statistics",
]

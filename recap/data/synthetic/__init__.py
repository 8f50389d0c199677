"""Writes a synthetic data set whose best reachable AUROC and log loss are known.

    python -m recap.data.synthetic experiment=local_prod synthetic.rows=20000

The features are drawn in :mod:`~recap.data.synthetic.drawn`; the function of them that the labels
follow is in :mod:`~recap.data.synthetic.planted`.
"""

from recap.data.synthetic.command import main
from recap.data.synthetic.data_set import SyntheticReport, TaskLimits, write_synthetic

__all__ = ["SyntheticReport", "TaskLimits", "main", "write_synthetic"]

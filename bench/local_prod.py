"""``python -m bench.local_prod``: speed of the published model at full width on synthetic data.

    python -m bench.local_prod [rows=24576] [directory=FOLDER] [batch_sizes=128,1024,4096]
                               [part_rows=2048] [repetitions=5] [overrides of recap.train]

Without ``directory`` the data set is written to a temporary folder and removed. A part is measured
on ``part_rows`` rows a repetition, or on 2 steps if these are more rows.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence

from bench.report import own_settings
from bench.speed import measure
from recap.compose import compose
from recap.compose.nodes import section
from recap.data.synthetic import write_synthetic

DEFAULTS = {
    "rows": "24576",
    "directory": "",
    "batch_sizes": "128,1024,4096",
    "part_rows": "2048",
    "repetitions": "5",
}


def main() -> None:
    """Writes the data set if it is not there yet, measures, prints."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    with contextlib.ExitStack() as stack:
        folder = settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory())
        overrides = ["experiment=local_prod", f"data_root={folder}", *overrides]
        write_data(folder, int(settings["rows"]), overrides)
        measure(
            overrides,
            batch_sizes=[int(size) for size in settings["batch_sizes"].split(",")],
            rows=int(settings["part_rows"]),
            repetitions=int(settings["repetitions"]),
            twin=True,
        )


def write_data(folder: str, rows: int, overrides: Sequence[str]) -> None:
    """Writes the synthetic data set of the overrides, a third of the rows for validation."""
    schema = section(compose(*overrides), "train_data.seg_dense_schema")
    for split, share in (("train", 2 / 3), ("validation", 1 / 3)):
        write_synthetic(schema, f"{folder}/{split}", rows=round(share * rows), stream=split)


if __name__ == "__main__":
    main()

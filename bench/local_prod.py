"""``python -m bench.local_prod``: speed of the published model at full width on synthetic data.

    python -m bench.local_prod [rows=20480] [directory=FOLDER] [batch_sizes=128,1024]
                               [part_rows=1024] [repetitions=5] [overrides of recap.train]

Without ``directory`` the data set is written to a temporary folder and removed. A part is measured
on ``part_rows`` rows a repetition, or on 4 steps if these are more rows.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile

from bench.report import own_settings
from bench.speed import measure
from recap.compose import compose
from recap.compose.nodes import section
from recap.data.synthetic import write_synthetic

DEFAULTS = {
    "rows": "20480",
    "directory": "",
    "batch_sizes": "128,1024",
    "part_rows": "1024",
    "repetitions": "5",
}


def main() -> None:
    """Writes the data set if it is not there yet, measures, prints."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    with contextlib.ExitStack() as stack:
        folder = settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory())
        run = stack.enter_context(tempfile.TemporaryDirectory())
        overrides = [
            "experiment=local_prod",
            f"data_root={folder}",
            f"training.save_dir={run}",
            *overrides,
        ]
        schema = section(compose(*overrides), "train_data.seg_dense_schema")
        for split, share in (("train", 0.8), ("validation", 0.2)):
            rows = round(share * int(settings["rows"]))
            write_synthetic(schema, f"{folder}/{split}", rows=rows, stream=split)
        measure(
            overrides,
            batch_sizes=[int(size) for size in settings["batch_sizes"].split(",")],
            rows=int(settings["part_rows"]),
            repetitions=int(settings["repetitions"]),
        )


if __name__ == "__main__":
    main()

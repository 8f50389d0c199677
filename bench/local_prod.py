"""``python -m bench.local_prod``: speed of the published model at full width on synthetic data.

    python -m bench.local_prod [directory=FOLDER] [rows=24576] [batch_sizes=128,1024,4096]
                               [precisions=float32] [part_rows=2048] [repetitions=5]
                               [overrides of recap.train]

Without ``directory`` the data set is written to a temporary folder and removed. A part is measured
on ``part_rows`` rows a repetition, or on 2 steps if these are more rows. On a GPU the defaults are
batches up to 65 536, as many rows as they need, and float32, tf32 and bf16.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence

import torch

from bench.plain import plain_twin
from bench.report import conditions, own_settings
from bench.speed import measure
from recap.compose import compose
from recap.compose.nodes import section
from recap.data.synthetic import write_synthetic

DEFAULTS = {
    "directory": "",
    "rows": "24576",
    "batch_sizes": "128,1024,4096",
    "precisions": "float32",
    "part_rows": "2048",
    "repetitions": "5",
}
ON_GPU = {
    **DEFAULTS,
    "rows": "196608",
    "batch_sizes": "128,1024,4096,16384,65536",
    "precisions": "float32,tf32,bf16",
    "part_rows": "65536",
}
PRECISIONS = {
    "float32": ["training.precision=float32", "training.tf32=false"],
    "tf32": ["training.precision=float32", "training.tf32=true"],
    "bf16": ["training.precision=bf16"],
}


def main() -> None:
    """Writes the data set if it is not there yet, measures, prints."""
    defaults = ON_GPU if torch.cuda.is_available() else DEFAULTS
    settings, overrides = own_settings(sys.argv[1:], defaults)
    print(conditions(), flush=True)
    with contextlib.ExitStack() as stack:
        folder = settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory())
        overrides = ["experiment=local_prod", f"data_root={folder}", *overrides]
        write_data(folder, int(settings["rows"]), overrides)
        for precision in settings["precisions"].split(","):
            measure(
                [*overrides, *PRECISIONS[precision]],
                title=f"local_prod, {precision}",
                batch_sizes=[int(size) for size in settings["batch_sizes"].split(",")],
                rows=int(settings["part_rows"]),
                repetitions=int(settings["repetitions"]),
                twin=plain_twin,
            )


def write_data(folder: str, rows: int, overrides: Sequence[str]) -> None:
    """Writes the synthetic data set of the overrides, a third of the rows for validation."""
    schema = section(compose(*overrides), "train_data.seg_dense_schema")
    for split, share in (("train", 2 / 3), ("validation", 1 / 3)):
        write_synthetic(schema, f"{folder}/{split}", rows=round(share * rows), stream=split)


if __name__ == "__main__":
    main()

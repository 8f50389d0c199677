"""``python -m bench.kuairand DATA_ROOT``: speed of the KuaiRand experiment on its data.

python -m bench.kuairand DATA_ROOT [batch_sizes=512,4096] [part_rows=40960] [repetitions=5]
                         [overrides of recap.train]
"""

from __future__ import annotations

import sys

from bench.report import own_settings
from bench.speed import measure

DEFAULTS = {"batch_sizes": "512,4096", "part_rows": "40960", "repetitions": "5"}


def main() -> None:
    """Measures and prints."""
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python -m bench.kuairand DATA_ROOT [name=value …]")
    settings, overrides = own_settings(sys.argv[2:], DEFAULTS)
    measure(
        ["experiment=kuairand", f"data_root={sys.argv[1]}", *overrides],
        batch_sizes=[int(size) for size in settings["batch_sizes"].split(",")],
        rows=int(settings["part_rows"]),
        repetitions=int(settings["repetitions"]),
    )


if __name__ == "__main__":
    main()

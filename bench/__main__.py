"""``python -m bench``: all benchmarks, one after the other; ``make bench`` runs it.

    python -m bench [kuairand=DATA_ROOT] [only=machine,local_prod,…]

Each is a command of its own, which says what it measured, in what conditions, and how long it took;
``only`` names some.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from time import perf_counter

from bench.report import own_settings

DEFAULTS = {"kuairand": "", "only": ""}
# settings that are not a benchmark's own defaults; DATA is where the data set of local_prod lies
DATA = "directory={data}"
COMMANDS = {
    "machine": [],
    "local_prod": [DATA],
    "products": [],
    "step_parts": [DATA],
    "cost": [DATA],
    "start_up": [DATA],
    "reading": [],
    "logged_steps": ["data_root={data}", "repetitions=3"],
    "kuairand": [],
    "tfrecord": ["members=4", "repetitions=2"],
    "memory": ["small_gb=0.2", "large_gb=0.8"],
    "checkpoint": ["millions=10,100"],
    "scaling": ["ranks=1,2", "steps=8", "repetitions=1"],
    "ranks": [],
}


def main() -> None:
    """Runs them; those that failed are named at the end."""
    settings, unknown = own_settings(sys.argv[1:], DEFAULTS)
    names = settings["only"].split(",") if settings["only"] else list(COMMANDS)
    if unknown := unknown + [name for name in names if name not in COMMANDS]:
        sys.exit(f"{', '.join(unknown)}: no such setting or benchmark; {', '.join(COMMANDS)} are")
    failed = []
    with tempfile.TemporaryDirectory() as data:
        for name in names:
            print(f"\n# bench.{name}\n", flush=True)
            arguments = [argument.format(data=data) for argument in COMMANDS[name]]
            if name == "kuairand":
                if not settings["kuairand"]:
                    print("left out: its data are named by make bench KUAIRAND=DATA_ROOT")
                    continue
                arguments = [settings["kuairand"], *arguments]
            started = perf_counter()
            done = subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments])
            failed += [name] if done.returncode else []
            print(f"\ntook {perf_counter() - started:.0f} s")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

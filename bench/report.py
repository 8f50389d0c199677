"""What every benchmark prints around its numbers: conditions, tables, its own peak memory."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path


def own_settings(arguments: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict, list[str]]:
    """The benchmark's own ``name=value`` arguments over their defaults, and all the others."""
    settings, others = dict(defaults), []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in settings:
            settings[name] = value
        else:
            others.append(argument)
    return settings, others


def conditions() -> str:
    """Command, machine, versions and load: without them a number says nothing."""
    import torch  # here, so that what measures imports can use the rest

    spec = sys.modules["__main__"].__spec__
    command = shlex.join(["python", "-m", spec.name if spec else "", *sys.argv[1:]])
    cores = len(os.sched_getaffinity(0))
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"command: {command}\n"
        f"machine: {cores} cores of {_processor()}{gpu}, {torch.get_num_threads()} torch threads, "
        f"load average {os.getloadavg()[0]:.1f}\n"
        f"versions: Python {platform.python_version()}, torch {torch.__version__}, "
        f"pyarrow {version('pyarrow')}, numpy {version('numpy')}"
    )


def peak_memory_mb() -> float:
    """The most memory this process has had resident so far, in MB.

    Not getrusage's ru_maxrss, which a child process inherits from the process that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status names no VmHWM")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = [("-" * (w - 1)) + ("-" if i == 0 else ":") for i, w in enumerate(widths)]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()

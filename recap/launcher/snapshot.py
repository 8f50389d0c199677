"""A copy of the code that jobs run from, whatever is edited while they wait."""

from __future__ import annotations

import importlib.util
import os
import shutil
import site
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import recap

LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def copy(folder: Path, packages: Iterable[str]) -> None:
    """Copies recap's files, and those of the packages that are not installed, into ``folder``."""
    folder.mkdir(parents=True)
    for name in sorted(packages):
        for place in _places(name):
            if place.is_dir():
                shutil.copytree(place, folder / place.name, ignore=LEFT_OUT, dirs_exist_ok=True)
            else:
                shutil.copy(place, folder / place.name)


def environment(folder: Path) -> dict[str, str]:
    """Variables with which Python imports from the copy first.

    What was importable from the working directory, as with ``python -m``, still is.
    """
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    path = os.pathsep.join([str(folder), os.getcwd(), *before])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _places(name: str) -> list[Path]:
    """Files or folders of an importable package; none of one that pip or Python itself brought."""
    if name == "recap":
        return [Path(recap.__file__).parent]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return []
    places = [Path(place) for place in spec.submodule_search_locations or [str(spec.origin)]]
    ours = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [*site.getsitepackages(), *(sysconfig.get_path(kind) for kind in ours)]
    return [
        place
        for place in places
        if place.exists() and not any(place.is_relative_to(root) for root in installed)
    ]

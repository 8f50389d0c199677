"""Facts about a run that its config does not hold: the code, the machine, the command."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import recap

CHECKOUT_FILE = "checkout.json"


def provenance(run_dir: Path) -> dict[str, str]:
    """Tag → value: host, run directory, command, versions, and the checkout's commit if any."""
    return {
        "host": platform.node(),
        "run_dir": str(run_dir),
        "command": without_passwords(shlex.join(sys.argv)),
        "version.recap": metadata_version("recap"),
        "version.torch": metadata_version("torch"),
        **checkout(Path(recap.__file__).parent),
    }


def checkout(folder: Path) -> dict[str, str]:
    """``git.commit``, ``git.branch``, ``git.dirty`` of the checkout that holds ``folder``.

    Of a copy that a launcher made, what stands beside it in ``CHECKOUT_FILE``: the checkout that
    was copied. Empty where there is none. A checkout that does not track ``folder`` is somebody
    else's: recap may be installed in a virtual environment inside it.
    """
    if (kept := folder.parent / CHECKOUT_FILE).exists():
        return json.loads(kept.read_text())
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "."):
        return {}
    branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "git.commit": commit,
        "git.dirty": "unknown" if changed is None else str(bool(changed)).lower(),
        **({"git.branch": branch} if branch and branch != "HEAD" else {}),
    }


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Key → value of Hydra overrides, passwords hidden; of ``~key``, the value is ``(removed)``."""
    parsed = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if key.startswith("~"):
            value = "(removed)"
        elif not separator:
            raise ValueError(f"override {override!r} has no '='")
        parsed[key.lstrip("+~")] = without_passwords(value)
    return parsed


def without_passwords(text: str) -> str:
    """The text with the password of every ``scheme://user:password@host`` in it hidden."""
    return re.sub(r"(\w://[^\s/:@]*:)[^\s/@]+@", r"\1***@", text)


def metadata_version(package: str) -> str:
    """Version of the installed package; 'source' where it runs without being installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "source"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

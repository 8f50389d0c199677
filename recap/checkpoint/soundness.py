"""Whether a checkpoint is as it was written, and which one a run goes on from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c

from recap.checkpoint import folder
from recap.checkpoint.folder import CheckpointError, reason
from recap.checkpoint.manifest import NAME, read_manifest
from recap.checkpoint.peers import Failed, Peers

if TYPE_CHECKING:
    import torch.distributed as dist

log = logging.getLogger(__name__)

_PIECE = 1 << 20  # bytes


def damage(checkpoint: Path, files: Mapping[str, Mapping[str, Any]]) -> tuple[str, str] | None:
    """The first of ``files`` that is not as the manifest says, and why; None: all are."""
    for name, written in files.items():
        try:
            size, crc32c = _sum(checkpoint / name)
        except OSError as error:
            return name, reason(error)
        if size != written["bytes"]:
            return name, f"it has {size} bytes, written were {written['bytes']}"
        if f"{crc32c:08x}" != written["crc32c"]:
            return name, "its checksum differs"
    return None


def newest_sound(
    save_dir: Path, group: dist.ProcessGroup | None = None, *, set_aside: bool = True
) -> Path | None:
    """The newest checkpoint that is as it was written; None where there are no checkpoints.

    Damaged ones that are newer are told of and, with ``set_aside``, renamed to ``damaged-step-…``,
    so that their steps are saved again; nothing is removed. The ranks of ``group`` share the files
    out among them and agree.

    Raises:
        CheckpointError: all of them are damaged.
    """
    peers = Peers(group)
    told: list[str] = []
    bad: list[Path] = []

    def listed(_: list[None]) -> list[list[Path]]:
        return [list(folder.by_step(save_dir).values())] * peers.size

    def put_aside(_: list[None]) -> list[None]:
        for checkpoint in bad:
            log.warning("%s is kept as %s", checkpoint.name, folder.set_aside(checkpoint))
        return [None] * peers.size

    try:
        for checkpoint in reversed(peers.exchange(lambda: None, listed)):
            why = _agreed_damage(checkpoint, peers)
            if why is None:
                if bad and set_aside:
                    peers.exchange(lambda: None, put_aside)
                return checkpoint
            bad.append(checkpoint)
            told.append(why)
            if peers.first:
                log.warning("%s; the checkpoint before it is used", why)
    except Failed as error:
        raise CheckpointError(f"{save_dir / 'checkpoints'}: {reason(error)}") from error
    if bad:
        raise CheckpointError(
            "every checkpoint is damaged, and none was changed; put back a sound one, or name "
            "another folder as training.save_dir to start anew:\n  " + "\n  ".join(told)
        )
    return None


def _agreed_damage(checkpoint: Path, peers: Peers) -> str | None:
    """What is wrong with a checkpoint, the same on every rank."""

    def mine() -> str | None:
        try:
            files = read_manifest(checkpoint)["files"]
        except CheckpointError as error:
            why = error.__cause__ or error
            return f"{checkpoint / NAME} is damaged ({reason(why)})"
        by_size = sorted(files, key=lambda name: (-files[name]["bytes"], name))
        share = by_size[peers.rank :: peers.size]
        found = damage(checkpoint, {name: files[name] for name in share})
        return None if found is None else f"{checkpoint / found[0]} is damaged ({found[1]})"

    def first_of(found: Iterable[str | None]) -> list[str | None]:
        return [next((why for why in found if why is not None), None)] * peers.size

    return peers.exchange(mine, first_of)


def _sum(file: Path) -> tuple[int, int]:
    """Size and checksum of a file."""
    size, crc32c = 0, 0
    with file.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            crc32c = google_crc32c.extend(crc32c, piece)
            size += len(piece)
    return size, crc32c

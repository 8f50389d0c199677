"""Ids hashed to numbers that are the same on every machine."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def hashed(ids: pa.Array) -> np.ndarray:
    """[V] uint64, the same everywhere: splitmix64 of integers, a polynomial of strings' bytes.

    The mix is Steele, Lea and Flood's finalizer (OOPSLA 2014).
    """
    if pa.types.is_floating(ids.type) or pa.types.is_boolean(ids.type):
        ids = ids.cast(pa.int64())
    if pa.types.is_integer(ids.type):
        return _mix(ids.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64))
    binary = ids.cast(pa.large_binary())
    starts = np.frombuffer(binary.buffers()[1], np.int64, len(binary) + 1, binary.offset * 8)
    data = np.frombuffer(binary.buffers()[2] or b"", np.uint8)
    lengths = np.diff(starts)
    state = lengths.astype(np.uint64)
    # one step per byte position, over all strings that are still that long: longest strings first
    order = np.argsort(-lengths, kind="stable")
    for position in range(int(lengths.max(initial=0))):
        alive = order[: int(np.searchsorted(-lengths[order], -position, side="left"))]
        state[alive] = state[alive] * np.uint64(0x100000001B3) + data[starts[alive] + position]
    return _mix(state)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""How much of a data set's decoding ranks do more than once, and the settings that spare it."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd


def decodings(*, lanes: int, ranks: int, batch: int, block: int) -> float:
    """About how many ranks decode a row group, over the lanes; 1 is as good as it gets.

    ``block`` rows are permuted together: a row group is read by whoever owns some of them. A rank
    owns the same part of every batch, and lanes have equal parts of it: ranks and lanes lie side by
    side over the batch like marks on two rulers. Where a rank's end falls into a lane, two ranks
    read that lane: lanes + ranks - gcd(lanes, ranks) pairs of a rank and a lane it reads.
    """
    pairs = lanes + ranks - gcd(lanes, ranks)
    return min(pairs / lanes, _owners(ranks, batch, block))


def busiest(*, lanes: int, ranks: int, batch: int, block: int) -> float:
    """About how many rows the busiest rank decodes for each row it trains on, 1 or more."""
    most = max(-(-lanes * (rank + 1) // ranks) - lanes * rank // ranks for rank in range(ranks))
    return min(most * ranks / lanes, _owners(ranks, batch, block))


def _owners(ranks: int, batch: int, block: int) -> float:
    """The most ranks that so many rows in a row may belong to: each owns batch / ranks in a row."""
    return 1 + block * ranks / batch


def fitting_lanes(*, lanes: int, ranks: int, batch: int) -> int | None:
    """The number of lanes nearest to ``lanes`` with which no two ranks read the same lane.

    A multiple of the ranks that divides the batch; None where the ranks do not divide the batch.
    """
    if batch % ranks:
        return None
    fitting = [n for n in range(ranks, batch + 1, ranks) if batch % n == 0]
    return min(fitting, key=lambda n: abs(n - lanes))


def sharing_warnings(
    *, lanes: int, ranks: int, batch: int, block: int, whole_batches: bool, cached: bool
) -> Iterator[str]:
    """What costs ranks more reading than one rank would have, with the setting that spares it.

    Args:
        block: rows of a lane that are permuted together.
        whole_batches: steps need all rows of a batch, so that every rank reads all of them.
        cached: decoded row groups are kept on disk, so that only a first pass decodes.
    """
    cost = "until they are cached, " if cached else ""
    if ranks > 1 and whole_batches:
        yield (
            f"preprocess: steps on whole batches, as downsample_negatives, have each of the "
            f"{ranks} ranks read all rows: {cost}every row group is decoded {ranks} times, and "
            "reading is no faster than on one rank"
            + ("" if cached else "; with cache=FOLDER on local disk only the first pass is")
        )
    elif (times := busiest(lanes=lanes, ranks=ranks, batch=batch, block=block)) > 1:
        fitting = fitting_lanes(lanes=lanes, ranks=ranks, batch=batch)
        way_out = "" if fitting is None else f"; interleave_num_parallel_calls={fitting} does not"
        mean = decodings(lanes=lanes, ranks=ranks, batch=batch, block=block)
        yield (
            f"interleave_num_parallel_calls={lanes} on {ranks} ranks: {cost}a row group is decoded "
            f"by {mean:.3g} ranks on average, and the busiest rank decodes {times:.3g} rows for "
            f"each it trains on{way_out} (another number is another order of rows)"
        )

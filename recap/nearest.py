"""The way out of a name that does not exist: the one that was meant, or those that there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LISTED = 20  # more names than these are counted, not listed


def nearest(name: str, names: Iterable[str]) -> str:
    """ "close: NAME" with the most alike of ``names``, else "there is A, B": the end of a message.

    A dotted name is compared as a whole and by its last part.
    """
    names = list(names)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if "." in name:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(names)}
        by_last = get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.8)
        candidates = [*close, *(last[part] for part in by_last)]
        close = get_close_matches(name, candidates, n=1, cutoff=0.0)
    if close:
        return f"close: {close[0]}"
    if len(names) > LISTED:
        return f"none of the {len(names)} that there are is like it"
    return f"there is {', '.join(names) or 'none'}"

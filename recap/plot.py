"""The learning-rate curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Curve = Callable[[int], float]

FARTHEST = 10_000_000  # a curve that still moves there is shown over the run's own steps only
SPREAD = 20.0  # rates, or steps, further apart than this are drawn on a logarithmic axis
NAMES_IN_LEGEND = 12  # of groups that share a curve; the others are counted


def save_plot(curves: Mapping[str, Curve], num_train_steps: int, path: Path) -> None:
    """A PNG of the rate of every group over the steps, up to where the last curve comes to rest.

    Groups of the same curve share a line. A dashed line marks the end of the run where curves go on
    behind it.

    Raises:
        OSError: the file cannot be written.
    """
    # Figure by itself draws without a display and without a state of its own between plots.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    rests = [_rests_at(curve) for curve in curves.values()]
    last = max(1, num_train_steps, *(step for step in rests if step is not None))
    last = round(1.15 * last) if last > 1.02 * num_train_steps else max(1, num_train_steps)
    first = min((step for step in rests if step), default=last)
    logarithmic = last > SPREAD * first
    steps = _steps(last, logarithmic)
    lines = _lines(curves, steps)
    peaks = [max(rates) for rates, _ in lines if max(rates) > 0]
    figure = Figure(figsize=(9, 5.5), dpi=120)
    axes = figure.add_subplot()
    order = sorted(range(len(lines)), key=lambda i: -max(lines[i][0]))
    for place, i in enumerate(order):
        rates, names = lines[i]
        axes.plot(
            steps,
            rates,
            label=_legend(names, curves[names[0]]),
            color=f"C{place % 10}",
            linestyle=("-", "--", "-.", ":")[place // 10 % 4],
            linewidth=2,
        )
    if last > num_train_steps:
        axes.axvline(num_train_steps, color="0.3", linestyle="--", linewidth=1)
        late = num_train_steps > last / 2
        axes.annotate(
            f"the run ends at step {num_train_steps:,}",
            (num_train_steps, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            horizontalalignment="right" if late else "left",
            verticalalignment="bottom",
            color="0.3",
        )
    if logarithmic:
        axes.set_xscale("symlog", linthresh=max(1, first / SPREAD))
    if peaks and max(peaks) > SPREAD * min(peaks):
        axes.set_yscale("log")
        axes.set_ylim(min(peaks) / 100, 2 * max(peaks))
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.3)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize="small",
        labelspacing=0.9,
    )
    figure.savefig(path, format="png", bbox_inches="tight")  # as wide as the legend's names need


def _rests_at(curve: Curve) -> int | None:
    """The step from which on the curve does not move, up to a few percent; None: it still does."""
    steps = np.unique(np.geomspace(1, FARTHEST, 800).astype(int))
    rates = [curve(0), *(curve(int(step)) for step in steps)]
    moving = [i for i, rate in enumerate(rates[:-1]) if rate != rates[-1]]
    if not moving:
        return 0
    return None if moving[-1] >= len(rates) - 2 else int(steps[moving[-1]])


def _steps(last: int, logarithmic: bool) -> np.ndarray:
    spaced = np.linspace(0, last, 2000)
    if logarithmic:
        spaced = np.concatenate([[0], np.geomspace(1, last, 2000), spaced])
    return np.unique(spaced.astype(int))


def _lines(
    curves: Mapping[str, Curve], steps: np.ndarray
) -> list[tuple[tuple[float, ...], list[str]]]:
    """The distinct courses of rates, each with the names of the groups that follow it."""
    followers: dict[tuple[float, ...], list[str]] = {}
    for name, curve in curves.items():
        followers.setdefault(tuple(curve(int(step)) for step in steps), []).append(name)
    return list(followers.items())


def _legend(names: list[str], curve: Curve) -> str:
    """The names of the groups on a line, one below the other, and their curve in words."""
    shown = names[:NAMES_IN_LEGEND]
    if rest := len(names) - len(shown):
        shown.append(f"and {rest} more")
    return "\n".join([*shown, f"    {curve}"])

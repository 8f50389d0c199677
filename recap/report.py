"""What a person wants to know of an experiment before it is trained, as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from recap.data.parquet import ParquetData
from recap.model.heavy_ranker import HeavyRanker
from recap.model.module_names import module_key
from recap.training import Training


def task_tables(
    ranker: HeavyRanker,
    optimizer: torch.optim.Optimizer,
    data: ParquetData,
    rates: Mapping[str, float],
    num_rows: int,
) -> str:
    """A table per task: where its label comes from, how often it is 1, its tower and its rate.

    Args:
        rates: by task, the share of positives among ``num_rows`` rows as they are stored.
    """
    by_group = curves(optimizer)
    read = _read_by_towers(ranker)
    sampling = getattr(data, "tasks", {})
    tables = []
    for task in ranker.tasks:
        tower = ranker.towers[module_key(task)]
        kept = sampling.get(task)
        rows = {
            "label column": data.seg_dense_schema.labels[task],
            "rate in the sample": f"{rates[task]:.5f} of {num_rows:,} rows",
            "sampling rates": "all kept"
            if kept is None
            else f"{kept.pos_downsampling_rate:g} of positives, "
            f"{kept.neg_downsampling_rate:g} of negatives kept",
            "tower": in_words(tower, read),
            "parameters": f"{_count(ranker.parameters_by_kind()['towers'][task].values()):,}",
            "learning rate": _curve_in_words(by_group[task]),
        }
        tables.append("\n".join([f"task {task}", *_aligned(rows)]))
    return "\n\n".join(tables)


def widths(ranker: HeavyRanker) -> str:
    """The width of every input and of what is made of them."""
    rows = {
        f"input {name}": f"{layer.out_features:>6,}  {type(layer).__name__}"
        for name, layer in ranker.inputs.items()
    }
    rows["features in all"] = f"{ranker.in_features:>6,}"
    if ranker.backbone is not None:
        rows["backbone"] = (
            f"{ranker.backbone.out_features:>6,}  {in_words(ranker.backbone, ranker.in_features)}"
        )
    rows["each tower reads"] = f"{_read_by_towers(ranker):>6,}"
    return "\n".join(["widths", *_aligned(rows)])


def parameter_groups(optimizer: torch.optim.Optimizer) -> str:
    """A row per group of parameters: numbers, tensors, weight decay and algorithm."""
    rows: dict[tuple[str, str, str], list[int]] = {}
    for part in getattr(optimizer, "parts", ()) or (optimizer,):
        for group in part.param_groups:
            decay = f"{group.get('weight_decay', 0.0):g}"
            row = rows.setdefault((group["name"], decay, type(part).__name__), [0, 0])
            row[0] += _count(group["params"])
            row[1] += len(group["params"])
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    cells = [("parameter group", "parameters", "tensors", "weight decay", "algorithm")]
    cells += [(n, f"{c[0]:,}", str(c[1]), d, a) for (n, d, a), c in rows.items()]
    cells.append(("in all", f"{total[0]:,}", str(total[1]), "", ""))
    return _columns(cells)


def memory(parts: Mapping[str, int], training: Training) -> str:
    """The bytes of each part of a run and their sum."""
    rows = {name: f"{_bytes(size):>9}" for name, size in parts.items()}
    rows["in all"] = f"{_bytes(sum(parts.values())):>9}"
    return "\n".join([f"memory on {training.torch_device}, about", *_aligned(rows)])


def in_words(module: nn.Module, in_features: int) -> str:
    """The class of a network, the widths it goes through and what else it is made of.

    Of a network whose linear layers are no chain, the first and the last width.
    """
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    sizes = [in_features, *(layer.out_features for layer in linear)]
    if [layer.in_features for layer in linear] != sizes[:-1]:
        sizes = [in_features, module.out_features]
    plain = (nn.Linear, nn.ReLU, nn.Identity)
    besides = dict.fromkeys(
        f"Dropout {layer.p:g}" if isinstance(layer, nn.Dropout) else type(layer).__name__
        for layer in module.modules()
        if next(layer.children(), None) is None and not isinstance(layer, plain)
    )
    words = f"{type(module).__name__} {' → '.join(map(str, sizes))}"
    return f"{words} with {', '.join(besides)}" if besides else words


def curves(optimizer: torch.optim.Optimizer) -> dict[str, Callable[[int], float]]:
    """The learning-rate curve of every parameter group by its name."""
    return {group["name"]: group["learning_rate"] for group in optimizer.param_groups}


def sweep_table(outcomes: Mapping[str, Sequence[str]]) -> str:
    """A row per point of a sweep, "ok" or how many faults; then the faults of each.

    Args:
        outcomes: the point's overrides → its faults.
    """
    rows = [("point", "")]
    for name, faults in outcomes.items():
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        rows.append((name, count if faults else "ok"))
    good = sum(not faults for faults in outcomes.values())
    blocks = [_columns(rows)]
    blocks += ["\n".join([name, *faults]) for name, faults in outcomes.items() if faults]
    return "\n\n".join([*blocks, f"{good} of {len(outcomes)} points can be trained"])


def _curve_in_words(curve: Callable[[int], float]) -> str:
    """The curve's own words; a function without any is told by its rate at the start."""
    if type(curve).__str__ is not object.__str__:
        return str(curve)
    return f"{curve(0):g} at step 0"


def _read_by_towers(ranker: HeavyRanker) -> int:
    width = ranker.in_features if ranker.features_to_towers else 0
    return width + (0 if ranker.backbone is None else int(str(ranker.backbone.out_features)))


def _count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size < 1000 else f"{size:,.0f} GB"


def _aligned(rows: Mapping[str, str]) -> list[str]:
    width = max(map(len, rows))
    return [f"  {name.ljust(width)}  {value}" for name, value in rows.items()]


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text; the first and the last column to the left, numbers between to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *numbers, last in rows:
        right = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right, last]).rstrip())
    return "\n".join(lines)

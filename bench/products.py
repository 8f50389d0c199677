"""``python -m bench.products``: the products of a step by themselves, against the peak of products.

    python -m bench.products [batch_sizes=128,1024,4096] [repetitions=10] [overrides of recap.train]

For every linear layer of local_prod, forward, the gradient of its inputs and that of its weight,
by torch.mm into memory that is there, one layer after the other as in a step. What a step takes
beyond this is its optimizer and everything between the products.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from statistics import mean, median

import torch
from torch import Tensor, nn

from bench.clock import seconds
from bench.local_prod import write_data
from bench.machine import measured, over_all
from bench.report import conditions, own_settings, table
from recap.allocator import in_huge_pages, keep_freed
from recap.compose import compose
from recap.experiment import prepare
from recap.model import HeavyRanker

DEFAULTS = {"batch_sizes": "128,1024,4096", "repetitions": "10"}
KINDS = ("outputs", "gradients of inputs", "gradients of weights")
HEADER = ("products of", "batch", "ms", "GFLOP/s", "of the GEMM peak", "lowest … highest")
ROWS = 384  # of the data set that the model is made for


def main() -> None:
    """Measures and prints."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    repetitions = int(settings["repetitions"])
    print(conditions(), flush=True)
    in_huge_pages()
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["experiment=local_prod", f"data_root={folder}/data", *overrides]
        write_data(f"{folder}/data", ROWS, overrides)
        experiment = prepare(
            compose(*overrides, f"training.save_dir={folder}/run", "tracking=none")
        )
    keep_freed()
    device = experiment.training.torch_device
    rows = []
    for batch_size in map(int, settings["batch_sizes"].split(",")):
        rows += _measured(experiment.ranker, batch_size, repetitions, device)
    print(f"\n{table(HEADER, rows)}")


def _measured(
    ranker: HeavyRanker, batch_size: int, repetitions: int, device: torch.device
) -> list[tuple[str, ...]]:
    linears = [module for module in ranker.modules() if isinstance(module, nn.Linear)]
    flops = 2 * batch_size * sum(layer.weight.numel() for layer in linears)
    of_layers = [_products(layer, batch_size) for layer in linears]
    products = dict(zip(KINDS, zip(*of_layers, strict=True), strict=True))
    took: dict[str, list[float]] = {name: [] for name in KINDS}
    shares: dict[str, list[float]] = {name: [] for name in (*KINDS, "all")}
    with torch.no_grad():
        for repetition in range(repetitions + 1):
            around = [measured(device, times=1)]
            once = {name: seconds(partial(_run, each), device) for name, each in products.items()}
            around.append(measured(device, times=1))
            if repetition == 0:  # it touches the memory for the first time
                continue
            peak = over_all(around, mean).gemm
            for name, each in once.items():
                took[name].append(each)
                shares[name].append(flops / each / peak)
            shares["all"].append(len(once) * flops / sum(once.values()) / peak)
    took["all"] = [sum(each) for each in zip(*took.values(), strict=True)]
    return [
        (
            name,
            f"{batch_size:,}",
            f"{1000 * median(took[name]):,.1f}",
            f"{(3 if name == 'all' else 1) * flops / median(took[name]) / 1e9:,.0f}",
            f"{median(each):.0%}",
            f"{min(each):.0%} … {max(each):.0%}",
        )
        for name, each in shares.items()
    ]


def _run(products: Iterable[Callable[[], Tensor]]) -> None:
    for product in products:
        product()


def _products(layer: nn.Linear, batch_size: int) -> tuple[Callable[[], Tensor], ...]:
    """Those of outputs, of the inputs' gradients and of the weight's gradient."""
    weight = layer.weight.detach()
    inputs = torch.randn(batch_size, layer.in_features, device=weight.device)
    grads = torch.randn(batch_size, layer.out_features, device=weight.device)
    outputs, of_inputs, of_weight = map(torch.empty_like, (grads, inputs, weight))
    return (
        lambda: torch.mm(inputs, weight.t(), out=outputs),
        lambda: torch.mm(grads, weight, out=of_inputs),
        lambda: torch.mm(grads.t(), inputs, out=of_weight),
    )


if __name__ == "__main__":
    main()

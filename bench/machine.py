"""``python -m bench.machine``: the most that this machine does: matrix products, memory traffic.

    python -m bench.machine [times=5]

What a step takes at least follows from the two, see ``Machine.floor_s``. Whatever compares with
them measures them anew, in the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bench.clock import fastest
from bench.report import conditions, own_settings, table

DEFAULTS = {"times": "5"}
# rows, inputs and outputs of a product: a square one, and two of local_prod's layers
SHAPES = {"cpu": ((2048, 2048, 2048), (4096, 2776, 1024), (4096, 4096, 2048))}
SHAPES["cuda"] = ((8192, 8192, 8192), (65536, 2776, 1024), (65536, 4096, 2048))
STREAM_VALUES = 48_000_000  # 192 MB a tensor, the weights of local_prod: beyond any cache
ADAM_BYTES = 28  # a value: weight, gradient and two moments are read, all but the gradient written
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Machine:
    """Measured rates of a device by way: products in FLOP/s, streams through memory in bytes/s."""

    device: torch.device
    products: Mapping[str, float]
    streams: Mapping[str, float]

    @property
    def gemm(self) -> float:
        """FLOP/s of the fastest way."""
        return max(self.products.values())

    @property
    def stream(self) -> float:
        """Bytes/s of the fastest way."""
        return max(self.streams.values())

    def floor_s(self, flops: float, num_bytes: float) -> float:
        """Seconds that a step cannot go below: products at their peak, then its optimizer's bytes.

        One behind the other, as the update needs all gradients; all else is left out.
        """
        return flops / self.gemm + num_bytes / self.stream


def measured(
    device: torch.device, dtype: torch.dtype = torch.float32, *, times: int = 5
) -> Machine:
    """The rates of ``device`` in all ways that are tried, the best of ``times`` times each."""
    products = {
        f"{shape} {path}": rate for shape, path, rate in gemm_rates(device, dtype, times=times)
    }
    return Machine(device, products, stream_rates(device, times=times))


def over_all(machines: Sequence[Machine], many: Callable[[Iterable[float]], float]) -> Machine:
    """A device that was measured several times: of each way ``many`` of its rates, e.g. max."""
    first = machines[0]
    return Machine(
        first.device,
        {way: many([m.products[way] for m in machines]) for way in first.products},
        {way: many([m.streams[way] for m in machines]) for way in first.streams},
    )


def flops_per_example(model: nn.Module) -> int:
    """Operations of the model's linear layers, forward and backward: six times their weights.

    Two for each weight and pass (output; gradients of input and weight). All other layers are left
    out, as lookups of embeddings are.
    """
    embeddings = [part for part in model.modules() if isinstance(part, EMBEDDINGS)]
    looked_up = {id(p) for part in embeddings for p in part.parameters()}
    return 6 * sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in looked_up)


def adam_bytes(model: nn.Module) -> int:
    """Bytes that an update by Adam reads and writes."""
    return ADAM_BYTES * sum(p.numel() for p in model.parameters())


def gemm_rates(
    device: torch.device, dtype: torch.dtype, *, times: int
) -> Iterator[tuple[tuple[int, int, int], str, float]]:
    """Shape, path through torch and FLOP/s of products of matrices."""
    for rows, inputs, outputs in SHAPES[device.type]:
        features = torch.randn(rows, inputs, device=device).to(dtype)
        weight = torch.randn(outputs, inputs, device=device).to(dtype)
        for path, product in _products(features, weight).items():
            took = fastest(product, device, times=times)
            yield (rows, inputs, outputs), path, 2 * rows * inputs * outputs / took


def _products(features: torch.Tensor, weight: torch.Tensor) -> dict[str, Callable[[], object]]:
    out = features.new_empty(len(features), len(weight))
    ways: dict[str, Callable[[], object]] = {
        "torch.mm": lambda: torch.mm(features, weight.t(), out=out)
    }
    if features.device.type == "cpu" and torch.backends.mkldnn.is_available():
        linear = torch.ops.mkldnn._linear_pointwise
        ways["oneDNN"] = lambda: linear(features, weight, None, "none", [], "")
    return ways


def stream_rates(device: torch.device, *, times: int) -> dict[str, float]:
    """Bytes/s, read and written, of streams through memory, among them Adam over a flat tensor."""
    weight = nn.Parameter(torch.zeros(STREAM_VALUES, device=device))
    weight.grad = torch.ones_like(weight)
    adam = torch.optim.Adam([weight], fused=True)
    values, copy, total = weight.detach(), torch.zeros_like(weight), torch.zeros_like(weight)
    streams: dict[str, tuple[int, Callable[[], object]]] = {
        "a copy": (8, lambda: copy.copy_(values)),
        "a sum of two": (12, lambda: torch.add(values, copy.detach(), out=total.detach())),
        "fused Adam": (ADAM_BYTES, adam.step),
    }
    with torch.no_grad():
        return {
            name: num_bytes * STREAM_VALUES / fastest(stream, device, times=times)
            for name, (num_bytes, stream) in streams.items()
        }


def main() -> None:
    """Measures and prints."""
    settings, _ = own_settings(sys.argv[1:], DEFAULTS)
    times = int(settings["times"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(conditions(), flush=True)
    rows = []
    for name, dtype, tf32 in PRECISIONS:
        if tf32 and device.type != "cuda":
            continue
        torch.backends.cuda.matmul.allow_tf32 = tf32
        for shape, path, rate in gemm_rates(device, dtype, times=times):
            rows.append((" × ".join(map(str, shape)), name, path, f"{rate / 1e9:,.0f}"))
    print(f"\n{table(('rows × inputs × outputs', 'numbers', 'by', 'GFLOP/s'), rows)}\n")
    streams = stream_rates(device, times=times)
    print(table(("stream", "GB/s"), [(n, f"{rate / 1e9:.1f}") for n, rate in streams.items()]))


PRECISIONS = (
    ("float32", torch.float32, False),
    ("float32 as TF32", torch.float32, True),
    ("bfloat16", torch.bfloat16, False),
)


if __name__ == "__main__":
    main()

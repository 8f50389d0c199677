"""A ranker as torch.compile makes it: fewer and larger kernels, on GPUs also as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model.heavy_ranker import HeavyRanker
from recap.training import Training

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")


class Compiled(nn.Module):
    """The logits of a ranker, whose parameters it shares, by one compiled graph without a break.

    Compiled at the first batch, in tens of seconds, and once for batches of all sizes. Inputs that
    read bags of ids are left as they are: the numbers of ids would be further sizes, each of which
    is recorded anew as a CUDA graph, and tables that are split over ranks cannot be compiled.

    ``mode`` and ``backend`` are those of torch.compile. Raises what torch raises where the ranker
    would break the graph.
    """

    def __init__(
        self, ranker: HeavyRanker, mode: str, backend: str | Callable = "inductor"
    ) -> None:
        super().__init__()
        self.ranker = ranker
        self._compiled = torch.compile(ranker.forward, mode=mode, backend=backend, fullgraph=True)

    def forward(self, batch: Batch) -> Tensor:
        """The logits, [B, T], as the ranker gives them."""
        read = self.ranker.read_bags(batch)
        if len(batch) < 2:  # torch makes a graph of its own for each of the sizes 0 and 1
            return self.ranker(batch, read)
        of_rows = replace(batch, sparse={}, weights=None)
        for tensor in (*of_rows.tensors(), *read.values()):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self._compiled(of_rows, read)


def compile_faults(training: Training) -> Iterator[str]:
    """Why ``training.compile`` cannot take effect on this machine."""
    if (mode := training.compile) is None:
        return
    key, on_gpu = f"training.compile={mode}", training.torch_device.type == "cuda"
    if mode in CUDA_GRAPHS and not on_gpu:
        yield (
            f"{key}: CUDA graphs are for GPUs, and training.device is "
            f"{training.torch_device.type}; choose default, or null"
        )
    elif mode in CUDA_GRAPHS and training.micro_batches > 1:
        yield (
            f"{key}: a CUDA graph writes the next micro-batch's gradients over those that "
            f"training.gradient_accumulation={training.gradient_accumulation} adds up; choose "
            "default, or set gradient_accumulation to null"
        )
    elif fault := _toolchain_fault(on_gpu):
        yield f"{key}: {fault}, or set it to null"


def _toolchain_fault(on_gpu: bool) -> str | None:
    """What torch lacks to make kernels."""
    # here and not above: they take a second, which only a run that compiles has to pay
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "torch finds no C++ compiler; install g++, or name one in the environment as CXX"
    if on_gpu and not has_triton():
        return "torch finds no Triton for this GPU; install it"
    return None

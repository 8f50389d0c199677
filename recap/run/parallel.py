"""A ranker as all ranks train it together: every rank its part of a batch, one update."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recap.distributed import Ranks
from recap.model.heavy_ranker import HeavyRanker
from recap.run.compiled import Compiled


def parallel(
    ranker: HeavyRanker,
    ranks: Ranks,
    device: torch.device,
    *,
    split: Collection[str] = (),
    compile_mode: str | None = None,
) -> nn.Module:
    """The module to call in training; its backward leaves the mean gradients of all ranks.

    Alone, or where nothing is trained, it is the ranker itself, or as compiled. Buffers are not
    sent around: batch norms keep the same statistics on all ranks by themselves, see
    ``recap.model.batch_norm``. The parameters named in ``split`` have their gradients by other
    ways.
    """
    trained = any(p.requires_grad for name, p in ranker.named_parameters() if name not in split)
    called = ranker if compile_mode is None else Compiled(ranker, compile_mode)
    if ranks.world_size == 1 or not trained:
        return called
    names = [name if called is ranker else f"ranker.{name}" for name in split]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(called, names)
    return SameBuckets(
        called,
        device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )


class SameBuckets(DistributedDataParallel):
    """Sums gradients in the same buckets at every step, the first one of a process included.

    torch makes its buckets behind the first step, in the order in which gradients came. Of three
    ranks or more it depends on a gradient's place in its bucket in which order they are added up,
    so that a run that was started again would differ from one that was not. Here the order is that
    of the parameters from the last to the first, about that of the gradients.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reducer._push_all_rebuilt_params()
        self.reducer._rebuild_buckets()

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()
        return parameters[::-1], sparse[::-1]


def unsynchronised(module: nn.Module, *, when: bool) -> AbstractContextManager[None]:
    """Within it gradients only add up on each rank: for all micro-batches but the last."""
    if when and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()

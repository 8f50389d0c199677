"""The parts of training at one batch size, by seconds a step: recap's, and the plain twin's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from statistics import mean
from time import perf_counter

import torch
from torch import nn

from bench import plain
from bench.clock import Moment, between, moment, seconds
from bench.machine import adam_bytes, flops_per_example
from bench.report import peak_memory_mb as resident_mb
from bench.storage import storage
from recap.allocator import in_huge_pages, keep_freed
from recap.batch import Batch
from recap.compose import compose
from recap.console import Progress
from recap.distributed import ALONE
from recap.evaluation import evaluate
from recap.experiment import Experiment, prepare
from recap.model import HeavyRanker
from recap.run.divergence import LossWindow
from recap.run.fit import fit
from recap.run.margin import Margin
from recap.run.reading import batches_from
from recap.run.start import Place, observe
from recap.run.update import update
from recap.tracking import Run

NEVER = 10**9  # steps
SETTLED_S = 2.0  # behind the first step of a run, it does only what it does at every step
TURN = 2  # steps of whole training between two pauses


@dataclass(frozen=True)
class About:
    """What is trained: data and model in words, where, and what a step costs at least."""

    text: str
    device: torch.device
    dtype: torch.dtype  # of the products
    flops: int  # of an example
    adam_bytes: int  # of an update


class Recap:
    """An experiment with its tracker as configured; ``folder`` takes what it writes."""

    def __init__(self, overrides: Sequence[str], batch_size: int, folder: str) -> None:
        in_huge_pages()  # as the command does
        own = (f"train_data.global_batch_size={batch_size}", f"training.save_dir={folder}/run")
        cfg = compose(*overrides, *own)
        if "folder" in cfg.tracking:
            cfg.tracking.folder = folder
        experiment = prepare(cfg)
        training = experiment.training
        torch.backends.cuda.matmul.allow_tf32 = training.tf32
        self.device = training.torch_device
        self.observing_s = seconds(lambda: observe(experiment), self.device)
        # the parts that a step is not: they are measured by themselves
        training = replace(
            training,
            num_train_steps=NEVER,
            eval_log_every_n=NEVER,
            checkpoint_every_n=NEVER,
        )
        self.experiment = replace(experiment, training=training)
        self.batch = first_batch(self.experiment).to(self.device)
        self.experiment.ranker.train()
        self.step_alone(1)  # the optimizer makes its moments, the threads start
        keep_freed()  # as the loop does behind its first update
        self.step_alone(1)

    def about(self) -> About:
        """What the experiment trains."""
        experiment, ranker = self.experiment, self.experiment.ranker
        lines = [
            f"data: {storage(experiment)}",
            f"model: {experiment.num_parameters:,} parameters, {len(ranker.tasks)} tasks",
        ]
        if ranker.observers():
            lines.append(f"pass over the data that inputs count: {self.observing_s:.1f} s")
        bf16 = experiment.training.precision == "bf16"
        return About(
            text="\n".join(lines),
            device=self.device,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            flops=flops_per_example(ranker),
            adam_bytes=adam_bytes(ranker),
        )

    def data_alone(self, steps: int) -> float:
        """Seconds a batch, from opening the files on: an epoch, or as many as ``steps`` if more."""
        steps = max(steps, self.experiment.train_data.num_rows // len(self.batch))

        def work() -> None:
            with closing(batches_from(self.experiment, 0)) as batches:
                for _ in islice(batches, steps):
                    pass

        return seconds(work, self.device) / steps

    def step_alone(self, steps: int) -> float:
        """Seconds an update, on one batch again and again, without logging."""

        def work() -> None:
            for step in range(steps):
                window = LossWindow(self.experiment.ranker.tasks, step, ALONE)
                update(self.experiment, [(self.batch, 0, 1.0)], step, window)

        return seconds(work, self.device) / steps

    def training(self, steps: int) -> tuple[float, float]:
        """Seconds a step of ``recap.run.fit`` as it is configured, and of an update alone.

        They take turns within one run, so that what else the machine does falls on both.
        """
        alone: list[float] = []
        whole = self.whole_training(steps, pause=lambda: alone.append(self.step_alone(TURN)))
        return whole, mean(alone)

    def whole_training(
        self,
        steps: int,
        *,
        around: AbstractContextManager = nullcontext(),  # noqa: B008
        pause: Callable[[], object] = lambda: None,
    ) -> float:
        """Seconds a step of ``recap.run.fit`` as it is configured, once the run has settled.

        These steps are made within ``around``; ``pause`` is called behind every few of them.
        """
        stopwatch = Stopwatch(steps, self.device, around, pause)
        with suppress(Enough), self.opened() as run, stopwatch:
            fit(self.experiment, run, stopwatch, Place(step=0, position=0), Margin(None))
        return stopwatch.seconds / steps

    def opened(self) -> Run:
        """The tracker's run of the experiment's folder."""
        save_dir = self.experiment.save_dir
        save_dir.mkdir(parents=True, exist_ok=True)
        return self.experiment.tracker.run(save_dir)

    def evaluation(self) -> float:
        """Seconds that as many examples as a step's take in a pass over the first partition."""
        name, data = next(iter(self.experiment.validation_data.items()))
        training = replace(self.experiment.training, num_eval_steps=-1)

        def work() -> None:
            evaluate(self.experiment.ranker, {name: data}, training)

        return seconds(work, self.device) * len(self.batch) / data.num_rows

    def peak_memory_mb(self) -> float:
        """Of this process so far; on a GPU, of the GPU."""
        return peak_memory_mb(self.device)


class Plain:
    """``twin`` of the experiment's ranker, on the same batch, with nothing else in memory."""

    def __init__(
        self,
        overrides: Sequence[str],
        batch_size: int,
        folder: str,
        twin: Callable[[HeavyRanker], nn.Module] = plain.plain_twin,
    ) -> None:
        own = (f"train_data.global_batch_size={batch_size}", f"training.save_dir={folder}/plain")
        experiment = prepare(compose(*overrides, *own, "tracking=none"))
        self.training, self.device = experiment.training, experiment.training.torch_device
        torch.backends.cuda.matmul.allow_tf32 = self.training.tf32
        self.batch = first_batch(experiment).to(self.device)
        self.model = twin(experiment.ranker).to(self.device)
        self.optimizer = plain.adam(self.model)
        self.step_alone(2)

    def step_alone(self, steps: int) -> float:
        """Seconds an update, on one batch again and again."""

        def work() -> None:
            for _ in range(steps):
                plain.step(self.model, self.optimizer, self.batch, self.training.autocast())

        return seconds(work, self.device) / steps

    def peak_memory_mb(self) -> float:
        """Of this process so far; on a GPU, of the GPU."""
        return peak_memory_mb(self.device)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that was held so far, in MB: by the process, or on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resident_mb()


def first_batch(experiment: Experiment) -> Batch:
    """The first batch of training."""
    with closing(batches_from(experiment, 0)) as batches:
        return next(batches)[0]


class Enough(Exception):
    """The loop has been timed for as many steps as it should."""


class Stopwatch(Progress):
    """A run's progress that times so many steps, pauses the run between them, and then ends it.

    They begin when the run has settled: behind its first step memory for saves is taken in the
    background, once.
    """

    seconds = 0.0

    def __init__(
        self,
        steps: int,
        device: torch.device,
        around: AbstractContextManager,
        pause: Callable[[], object],
    ) -> None:
        super().__init__(NEVER)
        self._left, self._device, self._around, self._pause = steps, device, around, pause
        self._first: float | None = None  # when the first step was done
        self._start: Moment | None = None

    def advance(self, num_examples: int) -> None:
        """Counts an update; raises Enough behind the last one."""
        super().advance(num_examples)
        if self._start is not None:
            self._left -= 1
            if self._left % TURN == 0:
                self.seconds += between(self._start, moment(self._device))
                self._pause()
                if self._left == 0:
                    self._around.__exit__(None, None, None)
                    raise Enough
                self._start = moment(self._device)
        elif self._first is None:
            self._first = perf_counter()
        elif perf_counter() - self._first >= SETTLED_S:
            self._around.__enter__()
            self._start = moment(self._device)

"""Samples of processor, memory, disk, network and GPU, taken by MLflow's own monitors."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor


class SystemMetrics:
    """Puts a sample, named as by MLflow (``system/cpu_utilization_percentage``), every so often.

    MLflow's SystemMetricsMonitor is not used: it asks the store for the run's status at every
    sample and ends at the first time that the store does not answer.

    The first sample comes after a second and the last at the end, so that a short run has some.

    Args:
        put: takes the sample's number and its values.
        first_step: number of the first sample.
        every_s: seconds between samples.
    """

    def __init__(
        self, put: Callable[[int, Mapping[str, float]], None], *, first_step: int, every_s: float
    ) -> None:
        self._put = put
        self._step = first_step
        self._every_s = every_s
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        # Raised where there is no NVIDIA GPU or nvidia-ml-py is not installed.
        with contextlib.suppress(ImportError, RuntimeError):
            self._monitors.append(GPUMonitor())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the last sample and end the thread."""
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        # Use is counted since this thread's call before; the first has nothing to count from.
        for monitor in self._monitors:
            monitor.collect_metrics()
            monitor.clear_metrics()
        pause_s = min(1.0, self._every_s)
        while not self._ending.wait(pause_s):
            self._sample()
            pause_s = self._every_s
        self._sample()

    def _sample(self) -> None:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics() or {}
            monitor.clear_metrics()
        self._put(self._step, {f"system/{name}": value for name, value in values.items()})
        self._step += 1

"""A command on the processes that were started for it, and what of it a person is told."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from recap.checkpoint import CheckpointError
from recap.compose import Refused
from recap.console import speak_as
from recap.data.files import DataError
from recap.distributed import OtherRankFailed, Ranks, joined, launched
from recap.signals import Stopped

log = logging.getLogger(__name__)


@contextmanager
def connected(cfg: DictConfig) -> Iterator[Ranks]:
    """The ranks of a run, whose config need not be checked yet; rank 0 speaks for all.

    Raises:
        Refused: the environment does not say which rank this is.
    """

    def given(key: str, kind: type | tuple[type, ...], default: object) -> object:
        value = OmegaConf.select(cfg, f"training.{key}")
        return value if isinstance(value, kind) else default

    try:
        speak_as(launched().rank)
    except ValueError as error:
        raise Refused([str(error)]) from error
    with joined(
        meeting=Path(str(given("save_dir", str, "."))).absolute(),
        timeout_s=float(str(given("rank_timeout_in_s", (int, float), 600))),
        device=str(given("device", str, "")),
    ) as ranks:
        try:
            yield ranks
        finally:
            if ranks.world_size == 1 and dist.is_initialized():
                dist.destroy_process_group()  # that torchrec had of one rank


@contextmanager
def told_plainly(*, at_once: str = "stopped") -> Iterator[None]:
    """What a user can mend leaves it without a trace, and what all ranks found from rank 0 alone.

    ``at_once`` is said of a command that Ctrl-C ends where it stands.
    """
    try:
        yield
    except (CompactHydraException, CheckpointError, OtherRankFailed) as error:
        if launched().rank > 0:
            raise SystemExit(1) from None
        raise CompactHydraException(str(error)) from error
    except (DataError, ConnectionError) as error:
        raise CompactHydraException(str(error)) from error
    except Stopped as stopped:
        log.info("%s", stopped)
        raise SystemExit(stopped.exit_code) from None
    except KeyboardInterrupt:
        log.info("%s", at_once)
        raise SystemExit(128 + signal.SIGINT) from None

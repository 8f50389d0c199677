"""``python -m recap.train``: trains the ranker that a composed config describes.

Started again in the same run directory, it continues the run: same weights, same order of rows.
The same command line trains on one process or on many, as torchrun or SLURM starts them.

What trains, ``recap.trainer``, is imported when it does: torch alone takes longer than an answer to
``--help`` or ``--cfg job``.
"""

from __future__ import annotations

if __name__ == "__main__":  # what follows takes seconds, in which a scheduler may warn
    import gc

    from recap.signals import hold_warnings

    hold_warnings()
    gc.disable()  # what starting makes, stays: to look for garbage in it takes a tenth of the time

from omegaconf import DictConfig

from recap.compose import hydra_command


def faults(cfg: DictConfig, num_ranks: int) -> list[str]:
    """What is wrong with a run's config for so many ranks; see ``recap.experiment.faults``."""
    from recap import experiment

    return experiment.faults(cfg, num_ranks)


def ended(cfg: DictConfig, error: BaseException | None) -> None:
    """What a queued run still does as it ends; see ``recap.sweep.closing.job_ended``."""
    from recap.sweep.closing import job_ended

    job_ended(cfg, error)


@hydra_command("train", check=faults, ended=ended)
def main(cfg: DictConfig) -> float | None:
    """The command; see ``recap.trainer``. What a user can mend is told without a trace."""
    from recap.allocator import in_huge_pages

    in_huge_pages()

    from recap.run.connected import told_plainly
    from recap.trainer import train

    with told_plainly(at_once="stopped at once; only what a checkpoint holds is kept"):
        return train(cfg)


if __name__ == "__main__":
    from recap.signals import ignore_warnings

    try:
        main()
    finally:
        ignore_warnings()

"""``python -m recap.evaluate``: the metrics of a run's checkpoint, or of each one as it appears.

What evaluates, ``recap.evaluator``, is imported when it does; see ``recap.train``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports: a scheduler's warning may come meanwhile
    from recap.signals import hold_warnings

    hold_warnings()

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from recap.compose import hydra_command


def faults(cfg: DictConfig, num_ranks: int) -> list[str]:
    """What is wrong with the command for so many ranks; see ``recap.evaluator.faults_of``."""
    from recap import evaluator

    return evaluator.faults_of(cfg, num_ranks)


@hydra_command("evaluate", check=faults)
def main(cfg: DictConfig) -> None:
    """The command; see ``recap.evaluator``. What a user can mend is printed without a trace."""
    from recap.evaluator import evaluate_run
    from recap.run.connected import told_plainly

    with told_plainly():
        evaluate_run(cfg, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    from recap.signals import ignore_warnings

    try:
        main()
    finally:
        ignore_warnings()

"""``python -m recap.check``: whether a run can be trained, told before it is queued.

What looks, ``recap.checker``, is imported when it does; see ``recap.train``.
"""

from __future__ import annotations

from omegaconf import DictConfig

from recap.compose import hydra_command


@hydra_command("check", queued=False)
def main(cfg: DictConfig) -> None:
    """The command; see ``recap.checker``. What a user can mend is printed without a trace."""
    from recap.checker import told

    print(told(cfg), end="")


if __name__ == "__main__":
    main()

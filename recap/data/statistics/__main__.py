"""The command ``python -m recap.data.statistics``."""

from recap.data.statistics.command import main

main()

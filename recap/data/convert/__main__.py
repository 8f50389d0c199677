"""The command ``python -m recap.data.convert``."""

from recap.data.convert.command import main

main()

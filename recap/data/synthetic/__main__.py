"""The command ``python -m recap.data.synthetic``."""

from recap.data.synthetic.command import main

main()

"""Recap's launchers and sweepers, where Hydra looks for plugins.

Hydra imports every module here at the start of every command: none may import more than Hydra.
"""

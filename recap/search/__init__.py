"""Searches: sweeps whose points are chosen by what the points before came to."""

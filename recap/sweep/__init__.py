"""Sweeps: many runs from one command line, as one run's children, and what they came to."""

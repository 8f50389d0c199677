"""Jobs that are queued: on SLURM or on this machine's devices, through submitit.

A submission is a folder, ``<run or sweep>/jobs/<number>/``: the frozen configs, what submitit
keeps, a log per rank, how every rank ended, and ``submission.json``, which ``recap.jobs`` reads.
"""

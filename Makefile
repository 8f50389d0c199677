# Sets itself up: every target builds .venv first where it is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin
ROWS ?= 20000

.PHONY: install train test check bench clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt torchrec.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), f"Python 3.11 is needed: make PYTHON=…"'
	@$(PYTHON) -c 'import ensurepip, venv' || (echo "Debian keeps venv in a package of its own:" && apt-get update && apt-get install --yes python3-venv)
	$(PYTHON) -m venv .venv
	$(VENV)/pip install --quiet --constraint constraints.txt --editable '.[dev,sparse]'
	$(VENV)/python -c 'import torch; print(open("torchrec.txt").read().replace("-gpu-cpu", "-gpu" if torch.version.cuda else "-gpu-cpu"))' > .venv/torchrec.txt
	$(VENV)/pip install --quiet --no-deps --requirement .venv/torchrec.txt
	touch $@

# Trains the published model on a synthetic data set, which is written the first time.
train: install
	$(VENV)/python -m recap.data.synthetic experiment=local_prod synthetic.rows=$(ROWS) synthetic.directory=data/local_prod
	$(VENV)/python -m recap.train experiment=local_prod

# A SLURM to start for the tests of tests/slurm, which are skipped where there is none.
.PHONY: slurm
slurm:
	@command -v slurmctld > /dev/null || test "$$(id -u)" != 0 || ! command -v apt-get > /dev/null || \
	    (apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends slurm-wlm munge) || \
	    echo "SLURM is not installed: its tests will be skipped"

test: install slurm
	$(VENV)/python -m pytest

check: install
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/pyright

# All of them, as Markdown; KUAIRAND=FOLDER names the KuaiRand data, which are left out without it.
bench: install
	$(VENV)/python -m bench kuairand=$(KUAIRAND)

clean:
	rm -rf .venv

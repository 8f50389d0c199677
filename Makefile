# Sets itself up: every target builds .venv first where it is missing or out of date.
PYTHON ?= python3.11
VENV := .venv/bin
ROWS ?= 10000

.PHONY: install train test check bench clean
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import ensurepip, venv' || (echo "python3-venv is missing: apt-get install python3-venv"; exit 1)
	$(PYTHON) -m venv .venv
	$(VENV)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Trains the published model on a synthetic data set, which is written the first time.
train: install
	$(VENV)/python -m recap.data.synthetic experiment=local_prod synthetic.rows=$(ROWS) synthetic.directory=data/local_prod
	$(VENV)/python -m recap.train experiment=local_prod

test: install
	$(VENV)/python -m pytest

check: install
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/pyright

bench: install
	$(VENV)/python -m bench.local_prod

clean:
	rm -rf .venv

# Everything runs from a virtual environment of the project's own, made on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint
setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mmssl needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/ready
	rm -rf runs/demo
	$(BIN)/python recipes/compare_modalities.py --out runs/demo --minutes 7 --scenes 800 --face-scenes 160 \
		--parts images text speech sync --sweeps images text --labels colour shape
	@echo "one principle, four modalities, on one page: runs/demo/report.html"

test: .venv/ready
	$(BIN)/python -m pytest -q -n auto --dist loadfile

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

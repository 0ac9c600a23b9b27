# Everything runs from a virtual environment of the project's own, made on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test soak lint
setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mmssl needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/ready
	rm -rf runs/demo
	$(BIN)/python recipes/compare_modalities.py --out runs/demo --minutes 7 --scenes 800 --face-scenes 160 \
		--parts images text speech sync --sweeps --labels colour shape
	@echo "one principle, four modalities, on one page: runs/demo/report.html"

# compiled modules are kept, whatever the environment says: the tests start dozens of processes
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv/ready
	$(BIN)/python -m pytest -q -n auto --dist loadfile

# what takes long: an hour of training that is watched, 200 kills, thousands of damaged files of each kind
MINUTES ?= 60
CASES ?= 3000
soak: .venv/ready
	$(BIN)/python tests/soak/soak_training.py --minutes $(MINUTES)
	MMSSL_KILLS=200 $(BIN)/python -m pytest -q tests/faults --timeout=3600
	MMSSL_FUZZ_CASES=$(CASES) $(BIN)/python -m pytest -q tests/fuzz --timeout=7200

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

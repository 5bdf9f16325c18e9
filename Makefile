# Thin lines over plain commands. `make train` and `make test` work on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
WORKERS ?= 2

.PHONY: train test test-all lint bench clean

train: .venv/installed
	$(BIN)/python examples/train_ctr.py

test: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu and not ray and not slow and not network"

test-all: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) -m "not gpu and not network"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/codespell

bench: .venv/installed
	$(BIN)/python benchmarks/ctr_step.py

# One install; repeated only when the pins, the package or its C sources change.
.venv/installed: requirements.txt pyproject.toml packaging/fbgemm-gpu/pyproject.toml recsys/embeddings/kernels.c recsys/data/vocab.c recsys/graph/spmm.c recsys/metrics/selection.c recsys/retrieval/code_products.c recsys/native.h
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check ./packaging/fbgemm-gpu
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/pip check
	touch $@

clean:
	rm -rf .venv build *.egg-info recsys/embeddings/*.so recsys/data/*.so recsys/graph/*.so

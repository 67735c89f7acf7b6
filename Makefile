# `make run` and `make test` set up .venv by themselves; the second time they start at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run compare test test-slow test-hosts lint types layers bench clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "raf-ray needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; try: make PYTHON=python3.12" % v)'
	@echo "Setting up $(VENV) (some minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

run: $(READY)
	@$(BIN)/python -m raf_ray.run --compare --only fedavg-mixed,raf-mixed

compare: $(READY)
	@$(BIN)/python -m raf_ray.run --compare

test: $(READY)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	@$(BIN)/python -m pytest -q -m slow

test-hosts: $(READY)
	@$(BIN)/python -m pytest -q -m "slow and not rare" -rs tests/test_two_nodes.py tests/test_onprem.py

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)
	@$(BIN)/mypy

layers: $(READY)
	@$(BIN)/lint-imports

bench: $(READY)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

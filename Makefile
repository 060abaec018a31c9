# make demo       set up, train a small net on built-in phantom brains (two minutes on 2 cores, pictures from the start), say where they are
# make test       set up, then lint, types and the fast tests (at most five minutes on 2 cores)
# make test-all   the same with the slow tests; this is what CI runs
# make docs       the documentation site, in build/site
# make test-lowest   the fast tests with the lowest versions that pyproject.toml declares

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest

.PHONY: demo test test-slow test-all test-lowest docs lint clean

demo: $(VENV)/installed
	$(BIN)/zoo train multires-28-stable --data phantoms --kimg 24 --set train.sample_kimg=4
	@echo "Pictures: samples/ and training.gif in the folder named above. Next: $(BIN)/zoo list"

test: $(VENV)/installed-dev lint
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: $(VENV)/installed-dev
	$(BIN)/pytest -n 2 -m slow

test-all: test test-slow

# In a separate environment (7 GB), by uv, which can resolve to the lowest versions that pyproject.toml allows.
test-lowest:
	test -x $(LOWEST)/bin/uv || { $(PYTHON) -m venv $(LOWEST) && $(LOWEST)/bin/pip install --quiet uv; }
	$(LOWEST)/bin/uv pip install --quiet --resolution lowest-direct --python $(LOWEST)/bin/python --editable '.[dev]'
	$(LOWEST)/bin/pytest -n 2 -m "not slow"

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open build/site/index.html"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info

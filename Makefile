# make run     install into .venv if need be, then train the main job
# make lab     the same, then open JupyterLab on the first notebook
# make test    all tests;  make lint, docs, bench, wheel, cross, sanitize: as they say
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find cython_kernels -name '*.[ch]' -o -name '*.pyx' -o -name '*.px[di]') \
          cython_kernels/CMakeLists.txt

.PHONY: run lab test lint docs bench wheel cross sanitize clean

run: $(VENV)/installed
	$(BIN)/workbench run

lab: $(VENV)/lab
	$(BIN)/jupyter lab notebooks/00_workbench.ipynb

test: $(VENV)/test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs
	$(BIN)/sphinx-build -W -q -b html docs docs/_build

bench: $(VENV)/compare
	$(BIN)/python benchmarks/run.py

wheel: $(VENV)/dev
	$(BIN)/python tools/wheel.py

cross: $(VENV)/dev
	$(BIN)/python tools/cross_compile.py

sanitize: $(VENV)/test
	$(BIN)/python tools/sanitize.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python3-venv is missing: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q --upgrade pip

# Editable: Python sources are used in place, native ones are built anew when they change.
$(VENV)/installed: pyproject.toml $(NATIVE) | $(BIN)/python
	$(BIN)/python -m pip install -q -e .
	@touch $@

# The project itself is installed already: this adds the packages of an extra.
$(VENV)/lab $(VENV)/test $(VENV)/docs $(VENV)/dev $(VENV)/compare: $(VENV)/%: $(VENV)/installed
	$(BIN)/python -m pip install -q 'pipeline-workbench[$*]'
	@touch $@

clean:
	rm -rf build dist wheelhouse docs/_build $(VENV)

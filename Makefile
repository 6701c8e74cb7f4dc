# Each target sets up all it needs: a virtual environment of its own, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench fuzz clean

demo: $(READY)
	rm -rf demo
	$(BIN)/loftr2flax demo --folder demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -q

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tools --check

bench: $(READY)
	$(BIN)/python -m benchmarks

# in all, shared by the targets; what is found stays in tests/fuzz/corpus
FUZZ_SECONDS ?= 3600

fuzz: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	cd tests && ../$(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

clean:
	rm -rf $(VENV) .bench dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

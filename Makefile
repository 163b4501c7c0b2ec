PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# One process per core, each with one thread: the tests are small, and threads that wait for each other cost more.
# Python writes its bytecode even where the environment forbids it: tests start dozens of processes, and each would
# compile the package again. The fast tests of a file share its fixtures, so they stay in one process.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8

.PHONY: demo test slow lint docs gpu wheel sbom

demo: $(INSTALLED)
	$(BIN)/mfcvae fit

test: $(INSTALLED)
	$(PYTEST) --dist loadfile -m "not slow"

slow: $(INSTALLED)
	$(PYTEST) --dist worksteal -m slow

# All that is to be measured on a GPU; MINUTES says how long it may take.
gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py --minutes $(or $(MINUTES),12)

docs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# dist/ gets the same bytes for one commit and one release of setuptools.
wheel: $(INSTALLED)
	.ci/wheel $(CURDIR)/$(BIN)/python dist

# What is installed in .venv, as CycloneDX.
sbom: $(INSTALLED)
	mkdir -p dist
	$(BIN)/python .ci/sbom.py >dist/sbom.json

# mypy reads an installed copy, because it cannot follow the editable mapping of models/ and guides/. build/ goes first:
# setuptools would put modules that are long deleted, but still lie there, into the copy.
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/typed .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --editable '.[log,explore,dev,docs]'
	touch $@

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test slow lint

demo: $(INSTALLED)
	$(BIN)/mfcvae fit

test: $(INSTALLED)
	$(BIN)/pytest -m "not slow"

slow: $(INSTALLED)
	$(BIN)/pytest -m slow

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
	$(BIN)/pip install --editable '.[log,dev]'
	touch $@

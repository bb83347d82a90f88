# `make demo` shows what bertft does, `make test` checks it; `make lint`, `make bench` and `make test-cpus` are for work on
# it. `make test-cpus` runs the tests with the code that libraries choose on other processors. `make fuzz` reads damaged
# files, configs and command lines: TIMES=100 times as many as `make test` does, chosen by SEED=1. `make architectures`
# writes the table of docs/architectures.md.
#
# Each installs what it needs into .venv in this folder, at the versions of constraints.txt, and again only after a
# change to the build. PYTHON=python3.12 chooses the interpreter; ROUNDS=short runs each quick benchmark once; with QUICK=1
# `make test-cpus` runs only the tests marked `equality`.

PYTHON ?= python3
ROUNDS ?= full
QUICK ?=
TIMES ?= 100
SEED ?= 1

BIN := .venv/bin
CPP := $(wildcard csrc/*.hpp csrc/*.cpp csrc/tests/*.hpp csrc/tests/*.cpp bertft/kernels/*.cu)
FUZZERS := $(patsubst csrc/tests/%.cpp,build/%,$(wildcard csrc/tests/fuzz_*.cpp))

# Through the environment these hold for the build's own requirements too; pip reads one name or the other.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-cpus lint bench fuzz architectures

demo: .venv/with-demo
	$(BIN)/bertft demo

test: .venv/with-test
	$(BIN)/pytest

test-cpus: .venv/with-test
	$(BIN)/python tests/run_on_cpus.py $(if $(QUICK),--quick)

fuzz: .venv/with-test
	BERTFT_FUZZ=$(TIMES) BERTFT_FUZZ_SEED=$(SEED) $(BIN)/pytest -q -x tests/fuzz

lint: .venv/with-dev $(FUZZERS)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	for fuzzer in $(FUZZERS); do $$fuzzer || exit; done

architectures: .venv/with-test
	$(BIN)/python tests/architectures.py

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

# Every target sets up .venv itself, from constraints.txt; a second call reuses it until pyproject.toml,
# constraints.txt or the native engine's sources (csrc/, CMakeLists.txt) change.
# Needs: Python >= 3.11 with venv, gcc, make.

# The first of these that is new enough; `make PYTHON3=/path/to/python test` chooses another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON3 ?= $(shell for python in python3 python3.11 python3.12 python3.13 python; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

PYTHON := .venv/bin/python
SOURCES = pyproject.toml constraints.txt CMakeLists.txt $$(find csrc -type f | LC_ALL=C sort)
HASH := $(shell cat $(SOURCES) | cksum | cut -d ' ' -f 1)
CORE := .venv/.core-$(HASH)
DEV := .venv/.dev-$(HASH)
WORKERS ?= 2

.PHONY: help demo test test-slow test-faults test-x86 test-arm bench lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       load gptwo-mini, generate, fine-tune, report, reload, predict (offline, minutes)"
	@echo "make test       lint, types, import floors, tests"
	@echo "make test-slow  the tests that take longer"
	@echo "make test-faults  10,000 requests with faults, and a server that is killed (FAULTS=COUNT)"
	@echo "make test-x86   the native engine's kernels on this machine; on x86-64 AVX-VNNI emulated where it is missing"
	@echo "make test-arm   the native engine's ARM kernels, cross-compiled and emulated"
	@echo "make bench      training speed and memory beside transformers"
	@echo "make format     format the code"
	@echo "make clean      remove caches and .venv"

.venv/bin/python:
	@test -n "$(PYTHON3)" || { echo "gptwo needs Python 3.11 or newer; none was found on PATH."; exit 1; }
	$(PYTHON3) -m venv .venv || { echo "Python's venv module is missing: apt install python3-venv"; rm -rf .venv; exit 1; }

# The prerequisite is order-only: what decides is the hash in the stamp's name, not a date.
$(CORE): | .venv/bin/python
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable .
	@rm -f .venv/.core-* .venv/.dev-*
	@touch $@

$(DEV): | .venv/bin/python
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@rm -f .venv/.core-* .venv/.dev-*
	@touch $@ $(CORE)

demo: $(CORE)
	$(PYTHON) examples/demo.py

lint: $(DEV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

test: lint
	$(PYTHON) -m pytest -q -n $(WORKERS) --dist loadfile

test-slow: $(DEV)
	$(PYTHON) -m pytest -q -m slow

FAULTS ?= 10000
test-faults: $(DEV)
	GPTWO_FAULTS=$(FAULTS) $(PYTHON) -m pytest -q -m "slow or not slow" tests/serve/test_faults.py

test-x86: $(DEV)
	$(PYTHON) -m pytest -q -m "slow or not slow" tests/native/test_kernels.py

# Processors without extensions, with DotProd, and with I8MM and BF16 too: each must find what it has.
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_EMULATOR ?= qemu-aarch64
test-arm:
	@for tool in cmake $(ARM_CXX) $(ARM_EMULATOR); do command -v $$tool > /dev/null || \
		{ echo "$$tool is missing: apt install cmake make g++-aarch64-linux-gnu qemu-user"; exit 1; }; done
	cmake -S . -B build/arm -DGPTWO_KERNEL_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=$(ARM_CXX) -DCMAKE_EXE_LINKER_FLAGS=-static
	cmake --build build/arm
	$(ARM_EMULATOR) -cpu cortex-a57 build/arm/kernels_test plain neon
	$(ARM_EMULATOR) -cpu neoverse-n1 build/arm/kernels_test plain neon neon_dotprod
	$(ARM_EMULATOR) -cpu max build/arm/kernels_test plain neon neon_dotprod neon_bf16

bench: $(DEV)
	$(PYTHON) bench/train.py

format: $(DEV)
	.venv/bin/ruff check --fix --quiet . || true
	.venv/bin/ruff format .

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

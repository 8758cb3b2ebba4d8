# make run     install into .venv, build stencils and host programs of all targets, run an example
# make test    the whole suite, on all targets, then once more against the built wheel
# make check   style, format and types
# make figures the speed that README promises, measured
# make soak    the long tests
# make clean   remove what these made

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
JOBS ?= auto
EXAMPLE ?= examples/residues.b
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := -m pip --quiet --quiet --disable-pip-version-check
WHEEL := build/wheel
EMULATED := aarch64 riscv64 ppc64le mips64 mips64el
CLANG := clang libclang-rt-14-dev

# Tests of every form on every target: of the wheel, the stencil files are compared with those of the checkout instead.
OF_FORMS := forms operations lld exact random_bodies

# Folders of data that the tests are told of must be found from everywhere.
ifdef CNP_SUITES
export CNP_SUITES := $(abspath $(CNP_SUITES))
endif

# A virtual environment in $(1). Debian's Python may lack ensurepip: then the system's pip brings pip in.
make_venv = $(PYTHON) -m venv --clear $(1) >/dev/null 2>&1 || { \
	$(PYTHON) -m venv --clear --without-pip $(1); \
	$(PYTHON) -m pip --quiet --quiet --python $(1)/bin/python install pip; }

.PHONY: run test test-sources test-wheel check figures soak clean stencils programs

run: stencils
	@echo "== the C of examples/ebpf, compiled to eBPF by clang and to machine code by cnp:"; $(BIN)/python examples/run_ebpf.py
	@echo "== $(EXAMPLE), compiled for this machine:"; $(BIN)/cnp run --time $(EXAMPLE)
	@echo "== the interpreter of the same operations:"; $(BIN)/cnp run --time --interpret $(EXAMPLE) >/dev/null

test: test-sources test-wheel

test-sources: stencils programs
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

# sdist, wheel of the sdist; the wheel in an environment and the tests in a folder of their own: no source is in reach.
test-wheel: stencils programs
	rm -rf $(WHEEL) && mkdir -p $(WHEEL)
	$(BIN)/python -m build --outdir $(WHEEL) . >$(WHEEL)/log 2>&1 || { tail -n 40 $(WHEEL)/log; exit 1; }
	@$(call make_venv,$(WHEEL)/venv)
	$(WHEEL)/venv/bin/python $(PIP) install "$$(echo $(WHEEL)/cnp-*.whl)[test]"
	@for file in cnp/lib/*.cnp; do cmp $$file $(WHEEL)/venv/lib/python3*/site-packages/$$file; done
	@away=$$(mktemp -d); trap 'rm -rf "$$away"' EXIT; \
	for part in tests examples docs pyproject.toml; do [ ! -e $$part ] || cp -r $$part "$$away"; done; \
	python="$$PWD/$(WHEEL)/venv/bin/python"; cd "$$away"; \
	echo "== the wheel"; \
	CNP_WHEEL=1 "$$python" -m pytest -q -n $(JOBS) --dist worksteal -m "not soak and not checkout" \
		$(OF_FORMS:%=--ignore=tests/test_%.py) $(PYTEST_ARGS)

check: $(BIN)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

figures: stencils
	$(BIN)/python benchmarks/figures.py

soak: stencils programs
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m soak $(PYTEST_ARGS)

stencils: $(BIN)/.installed
	$(BIN)/python build_stencils.py --target all

# Installed in place: only what is compiled or declared asks for a new installation.
$(BIN)/.installed: pyproject.toml setup.py $(wildcard cnp/_*.c cnp/core/*.[ch]) cnp/_core_build.py
	@$(call make_venv,.venv)
	$(BIN)/python $(PIP) install --editable '.[dev]'
	touch $@

# What the tests run beside Python's packages: the emulators, a second compiler with sanitizers for the core in C, gdb, C++
# for what throws, and what builds a program around the core.
programs:
	@missing=; for target in $(EMULATED); do \
		command -v qemu-$$target-static qemu-$$target >/dev/null || missing="qemu-user-static"; done; \
	command -v clang >/dev/null || missing="$$missing $(CLANG)"; \
	command -v gdb >/dev/null || missing="$$missing gdb"; \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	command -v cmake >/dev/null || missing="$$missing cmake"; \
	command -v pkg-config >/dev/null || missing="$$missing pkg-config"; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $$missing"; \
		apt-get update -qq >/dev/null; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	else echo "some tests need more: sudo apt-get install $$missing"; fi

clean:
	rm -rf .venv build dist *.egg-info cnp/lib cnp/host/bin cnp/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The one entry point: people and CI call these targets and nothing else.
# A fresh clone needs python3 (3.11 or newer), gcc and make; the rest goes into .venv.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q

# The core is checked by its own tests; the others would only test numpy and Flask under ASan.
ASAN_TESTS := $(wildcard $(patsubst %,tests/test_%.py,core core_judge core_scan agreement \
	hostile json_agreement json_scan protobuf threads))
# Findings are fatal, and are seen: --capture=sys leaves them the real stderr. Leaks are not looked
# for: Python itself keeps memory at exit.
ASAN_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g
# Without PYTHONMALLOC=malloc the overread of a small object stays inside Python's own arena.
ASAN_ENV = PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$$($${CC:-gcc} -print-file-name=libasan.so) $$($${CC:-gcc} -print-file-name=libubsan.so)"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help build check test attack asan bench servers manifests image docs demo clean FORCE

help:  ## show this
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

build: $(VENV)/.core  ## set up .venv and compile the core

check: build $(VENV)/.dev  ## format, lint, types, the stub, import contracts
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	@# It calls pycodestyle by name.
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint sluice/*.pyx sluice/*.pxd
	$(PY) -m mypy
	$(PY) -m mypy.stubtest sluice._core --allowlist tests/stub-allowlist.txt
	$(VENV)/bin/lint-imports

# The least coverage is asked of the whole suite: ARGS may choose a part.
test: build $(VENV)/.dev  ## the suite, with branch coverage; ARGS="tests/test_run.py -q" for a part
	$(PY) -m pytest --cov --cov-report=term $(if $(ARGS),,--cov-fail-under=85) $(ARGS)

attack: build $(VENV)/.dev  ## the hostile suite in its long form, about half an hour
	SLUICE_ATTACK_S=30 $(PY) -m pytest -s tests/attack $(ARGS)

asan: build $(VENV)/.dev  ## the core's tests under AddressSanitizer and UBSan, built apart
	@echo "Compiling the core with sanitizers ..."
	@rm -rf build/asan && mkdir -p build/asan
	@cp -r sluice tests setup.py pyproject.toml README.md LICENSE build/asan
	@cd build/asan && rm -f sluice/*.so sluice/*.c && CFLAGS="$(ASAN_FLAGS)" \
		LDFLAGS="-fsanitize=address,undefined" $(CURDIR)/$(PY) setup.py -q build_ext --inplace
	cd build/asan && $(ASAN_ENV) PYTHONPATH=. \
		$(CURDIR)/$(PY) -m pytest --capture=sys -p no:cacheprovider $(ASAN_TESTS) $(ARGS)

bench: build $(VENV)/.dev  ## the benchmarks; results belong into benchmarks/README.md
	$(PY) -m pytest $(wildcard benchmarks/bench_*.py) $(ARGS)

servers: $(VENV)/.made  ## build or install the real servers that tests and benchmarks use
	@$(PY) tests/servers/build.py $(ARGS)

manifests: $(VENV)/.made  ## render deploy/k8s from the chart
	@$(PY) tools/manifests.py --helm "$$($(PY) tests/servers/build.py --path helm)" $(ARGS)

image: $(VENV)/.made  ## build the container image of Debian packages and run it; as root
	@PYTHON=$(PY) sh tools/image.sh $(ARGS)

docs: $(VENV)/.docs  ## build the documentation as a site in build/docs; ARGS="serve" shows it
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs $(or $(ARGS),build --strict)

demo: build  ## watch budgets being enforced, on synthetic teams
	@exec $(PY) -m sluice demo $(ARGS)

clean:  ## remove what the other targets made in this folder
	rm -rf $(VENV) build dist *.egg-info sluice/*.so sluice/*.c sluice/*.html .coverage .coverage.* \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What stands is not made again: each stamp is older than what was made from it. A folder that was
# copied or moved, or another PYTHON, or a vanished interpreter makes the environment anew.
MADE_FOR := $(CURDIR) $(PYTHON)
STANDS := $(shell test -x $(PY) && test "$$(cat $(VENV)/.made 2>&1)" = "$(MADE_FOR)" && echo yes)

$(VENV)/.made: $(if $(STANDS),,FORCE)
	@sh tools/venv.sh $(PYTHON) $(VENV)
	@echo "$(MADE_FOR)" > $@

# Without build isolation, so that the compiler of the core is fetched once and not per install.
$(VENV)/.run: pyproject.toml $(VENV)/.made
	@echo "Installing what Sluice needs, compiling the core (about a minute) ..."
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build.txt
	@$(PIP) install -r $(VENV)/build.txt
	@$(PIP) install --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	@echo "Installing what the tests need ..."
	@$(PIP) install --no-build-isolation -e '.[dev]'
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.made
	@echo "Installing what the documentation needs ..."
	@$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(VENV)/docs.txt
	@$(PIP) install -r $(VENV)/docs.txt
	@touch $@

# setup.py sees by the .pyx and by every .pxd that it cimports whether there is anything to do, but
# does not count itself: its directives and flags.
$(VENV)/.core: setup.py $(wildcard sluice/*.pyx sluice/*.pxd) $(VENV)/.run \
		$(if $(wildcard sluice/_core.*.so),,FORCE)
	@if test setup.py -nt "$$(ls -t sluice/_core.*.so 2>&1 | head -n 1)"; then \
		rm -f sluice/_core.*.so sluice/_core.c; \
	fi
	@$(PY) setup.py -q build_ext --inplace
	@touch $@

# metaembed-lite. Every target sets up what it needs.

PYTHON  ?= python3
PROFILE ?= cpu
LAB_ARGS ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env book student slides pdf address test abuse browser lab lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
ALL_TESTS = tests/unit $(wildcard tests/test_*.py) tests/site
BOOK_TESTS = tests/test_notebooks.py tests/site
UV := $(BIN)/uv

help:
	@echo "make book     execute every notebook and build the site into _build/html"
	@echo "              (PROFILE=smoke for a quick look, cpu by default, gpu on a machine with a GPU)"
	@echo "make student  copy the notebooks without solutions, with blanks, into _build/student"
	@echo "make slides   build a deck from the book's figures, one file that works offline (PROFILE as above)"
	@echo "make pdf      print the built site into _build/metaembed-lite.pdf (needs make book, and Chromium)"
	@echo "make address  write the repository's address of _config.yml into the notebooks, for Colab"
	@echo "make test     run every test: unit, packaging, lint and types, notebooks, site in a real browser"
	@echo "make abuse    hostile, damaged and odd input, kills, full disks: prints what survived (SECONDS=300 for a part)"
	@echo "make lab      open JupyterLab in notebooks/"
	@echo "make env      create the environment in $(VENV) (PYTHON=python3.12 to choose the interpreter)"
	@echo "make lock     resolve requirements.lock again from pyproject.toml (UPGRADE=--upgrade for newer pins)"
	@echo "make clean    remove $(VENV) and everything that was built"

env: $(READY)

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "'$(PYTHON)' was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
	       "Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "== environment: $$($(PYTHON) -V) in $(VENV), $$(grep -c '==' requirements.lock) pinned packages"
	@echo "   the first time this takes several minutes and about 6 GB, mostly for PyTorch"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes \
	  -r requirements.lock | awk '\
	  /^Collecting /   { n++; printf "   %3d %s\n", n, $$2; fflush() } \
	  /^Installing /   { print "   installing them, a minute or two"; fflush() }'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-build-isolation --no-deps -e .
	@touch $@
	@echo "== environment ready"

book: $(READY)
	@$(BIN)/python book/make_book.py --profile $(PROFILE)

student: $(READY)
	@$(BIN)/python book/make_student.py

slides: $(READY)
	@$(BIN)/python book/make_slides.py --profile $(PROFILE)

pdf: $(READY)
	@$(BIN)/python book/make_pdf.py

address: $(READY)
	@$(BIN)/python book/address.py

# Two runs at once, of one thread each: threads of several processes would wait for each other. The output of each run
# is printed when it ends. Only test-book builds the book, because one process at a time may.
test: $(READY) browser
	@echo "== two test runs at once. Each prints its output when it ends"
	@OMP_NUM_THREADS=1 $(MAKE) --jobs=2 --output-sync=target --keep-going --no-print-directory test-code test-book

test-code: $(READY)
	@$(BIN)/python -m pytest $(filter-out $(BOOK_TESTS),$(ALL_TESTS))

test-book: $(READY)
	@$(BIN)/python -m pytest $(BOOK_TESTS)

# A short form of it is part of make test.
abuse: $(READY) browser
	@cd benchmarks && PYTHONPATH=.:../book:.. HF_HUB_OFFLINE=1 ../$(BIN)/python -m abuse $(if $(SECONDS),--seconds $(SECONDS))

# The site is tested in Chromium. As root on a Debian-like machine, this installs it. Elsewhere it prints how to install
# it: the other tests still run, and the site's tests fail with the same advice.
browser: $(READY)
	@if ! $(BIN)/python book/browser.py; then \
	  if [ -z "$${CHROME:-}" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "== installing chromium with apt-get"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	  fi; \
	fi

lab: $(READY)
	@echo "== JupyterLab in notebooks/ (Ctrl+C twice stops it)"
	@cd notebooks && ../$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

# torch comes from the standard index. --universal pins for every platform and every Python from 3.11 on. The hashes are
# those that the index names for each file, so pip refuses a file that was exchanged.
lock: $(READY)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	@$(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes $(UPGRADE) \
	  pyproject.toml -o requirements.lock
	@echo "== requirements.lock: $$(grep -c '==' requirements.lock) pins. The next make installs what changed"

clean:
	rm -rf $(VENV) _build .executed metaembed_lite.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

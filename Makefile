# The course in two commands: `make book` and `make test`. Both install what they need into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
INSTALLED := $(VENV)/.installed
CACHE := _build/.jupyter_cache
OFFLINE := _build/offline
PACKAGE := $(shell find attncourse -name '*.py')
BOOK_NOTEBOOKS := $(wildcard book/*.ipynb)
SOLUTIONS := $(wildcard solutions/*/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help book serve test bench bench-compare bench-grading exercises bootstrap format clean

help: ## Show what there is
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first and by its exact pin, so that nothing else draws another build of it in.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[book,grade,cluster,dev]'
	@touch $@

# A cached execution holds for the package that it ran with.
$(CACHE)/.package: $(PACKAGE) $(INSTALLED)
	rm -rf $(CACHE)
	mkdir -p $(CACHE)
	@touch $@

$(OFFLINE)/.ready: $(INSTALLED) book/references.bib attncourse/plot/timeline.py
	rm -rf $(OFFLINE)
	mkdir -p $(OFFLINE)/mathjax/output/chtml/fonts
	mathjax=$$($(BIN)/python -c 'import mathjax; print(mathjax.__path__[0])')/static/mathjax/es5 && \
	  cp $$mathjax/tex-mml-chtml.js $(OFFLINE)/mathjax/ && \
	  cp -r $$mathjax/output/chtml/fonts/woff-v2 $(OFFLINE)/mathjax/output/chtml/fonts/
	$(BIN)/python -m attncourse.plot.timeline book/references.bib $(OFFLINE)/timeline.svg
	@touch $@

# Chapters are executed side by side first, a thread each; the build finds them in the cache, and runs what failed again.
book: $(INSTALLED) $(CACHE)/.package $(OFFLINE)/.ready ## Install, execute every chapter, build the HTML (warnings are errors)
	yes | $(BIN)/jcache notebook --cache-path $(CACHE) add $(BOOK_NOTEBOOKS)
	OMP_NUM_THREADS=1 $(BIN)/jcache project --cache-path $(CACHE) execute --executor local-parallel --timeout 300
	$(BIN)/jupyter-book build book --config _config.yml --toc $(CURDIR)/_toc.yml --path-output . -W -n --keep-going
	$(BIN)/python tests/check_built_book.py _build/html
	@echo "The book: $(CURDIR)/_build/html/index.html"

serve: ## Serve the built book at http://localhost:8000 (PORT=... for another)
	@test -f _build/html/index.html || { echo "There is no built book yet: run make book first."; exit 1; }
	$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# loadfile: a notebook's cells share a kernel and must stay in one worker; one thread each, since two run at once.
test: $(INSTALLED) ## Install, run every test and every notebook
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --nbval-lax --nbval-cell-timeout 300 tests $(BOOK_NOTEBOOKS) $(SOLUTIONS)

bench: $(INSTALLED) ## Record this device's measurements into book/measurements/ (ARGS=--quick for a look)
	$(BIN)/python -m attncourse bench $(ARGS)

# `make bench-compare A B` names two files as goals: they become the arguments, and goals with nothing to do.
ifeq (bench-compare,$(firstword $(MAKECMDGOALS)))
RECORDS := $(wordlist 2,3,$(MAKECMDGOALS))
$(foreach record,$(RECORDS),$(eval .PHONY: $(record))$(eval $(record):;@:))
endif
bench-compare: $(INSTALLED) ## Set two records side by side (make bench-compare A B, or A=... B=...)
	$(BIN)/python -m attncourse compare $(or $(A),$(word 1,$(RECORDS))) $(or $(B),$(word 2,$(RECORDS)))

bench-grading: $(INSTALLED) ## Measure how fast a class is graded (SUBMISSIONS=100)
	$(BIN)/python -m tests.bench_grading --submissions $(or $(SUBMISSIONS),100)

exercises: $(INSTALLED) ## Regenerate exercises/ from solutions/
	$(BIN)/python -m attncourse release

bootstrap: $(INSTALLED) ## Regenerate the first cell of every notebook
	$(BIN)/python -m attncourse bootstrap

format: $(INSTALLED) ## Format and lint the code, strip the notebooks' outputs
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout --keep-id $(BOOK_NOTEBOOKS) $(SOLUTIONS)
	$(BIN)/python -m attncourse bootstrap

clean: ## Remove what was built and installed (.venv, _build)
	rm -rf _build $(VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis

# The course in two commands: `make book` and `make test`. Both install what they need into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
INSTALLED := $(VENV)/.installed
OFFLINE := _build/offline

# Text is UTF-8 whatever the locale is.
export PYTHONUTF8 := 1

# Jupyter, matplotlib and Triton write into a home; who has none, or one that cannot be written, gets one here.
ifneq ($(shell test -n "$$HOME" && test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/_build/home
$(shell mkdir -p "$(HOME)")
endif

# An environment that was moved here, has lost its Python, or has no pip is none: it is made anew.
ifneq ($(shell grep -qsF "$(CURDIR)/$(VENV)" $(VENV)/pyvenv.cfg && $(BIN)/python -c 'import pip' 2>/dev/null && echo yes),yes)
$(shell rm -f $(INSTALLED))
endif

# PyTorch's build for CUDA asks for one Triton of its own, its build for processors for none.
TORCH_PINS_TRITON := 'import importlib.metadata as m, sys; sys.exit(not any(r.startswith("triton==") for r in m.requires("torch")))'

.DEFAULT_GOAL := help
.PHONY: help book serve test chapters bench bench-compare bench-grading promises gpu compile-record mutants pretend-gpu versions exercises bootstrap format clean

help: ## Show what there is
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first and by its exact pin, so that nothing else draws another build of it in. Without the mark that an installation
# leaves when it is done, what stands there broke off: it is cleared away, since pip takes half a package for a whole one.
$(INSTALLED): pyproject.toml constraints.txt
	"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	if test -f $@; then rm $@; else rm -rf $(VENV); fi
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	cp constraints.txt $(VENV)/constraints.txt
	if $(BIN)/python -c $(TORCH_PINS_TRITON); then sed -i '/^triton==/d' $(VENV)/constraints.txt; fi
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt --editable '.[book,grade,cluster,cpu,dev]'
	@touch $@

$(OFFLINE)/.ready: $(INSTALLED) book/references.bib book/exercises.md attncourse/plot/timeline.py attncourse/course/prerequisite_map.py attncourse/course/poster.py $(wildcard attncourse/*/picture.py attncourse/*/room.py)
	rm -rf $(OFFLINE)
	mkdir -p $(OFFLINE)/mathjax/output/chtml/fonts
	mathjax=$$($(BIN)/python -c 'import mathjax; print(mathjax.__path__[0])')/static/mathjax/es5 && \
	  cp $$mathjax/tex-mml-chtml.js $(OFFLINE)/mathjax/ && \
	  cp -r $$mathjax/output/chtml/fonts/woff-v2 $(OFFLINE)/mathjax/output/chtml/fonts/
	$(BIN)/python -m attncourse.plot.timeline book/references.bib $(OFFLINE)/timeline.svg
	$(BIN)/python -m attncourse.course.prerequisite_map $(OFFLINE)/prerequisites.svg
	$(BIN)/python -m attncourse poster $(OFFLINE)/poster.svg
	$(BIN)/python -m attncourse poster $(OFFLINE)/poster.pdf
	@touch $@

# Side by side, a thread each. Tests and book take what they show from one cache: nothing is executed twice.
chapters: $(INSTALLED) ## Execute every chapter that has changed, or whose package has
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.run_chapters

book: chapters $(OFFLINE)/.ready ## Install, execute every chapter, build the HTML (warnings are errors)
	$(BIN)/jupyter-book build book --config _config.yml --toc "$(CURDIR)/_toc.yml" --path-output . -W -n --keep-going
	$(BIN)/python -m tests.check_built_book _build/html
	@echo "The book: $(CURDIR)/_build/html/index.html"

.PHONY: look
look: $(INSTALLED) ## Open every built page in Chromium, light and dark: accessible, and nothing cut off (ARGS="--pages latent")
	$(BIN)/python -m tests.look_at_book _build/html $(ARGS)

serve: ## Serve the built book at http://localhost:8000 (PORT=... for another)
	@test -f _build/html/index.html || { echo "There is no built book yet: run make book first."; exit 1; }
	$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# A module's fixtures are made once. Modules go in their own order: by the number of tests, those with few long ones were left
# for the end, and one core waited for them. One thread each, since two run at once.
TWO_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder

test: chapters ## Install, run every test and every notebook
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_ONCE) --junitxml=_build/tests.xml tests

.PHONY: quick
quick: $(INSTALLED) ## What to run before each commit: lint, and the fast tests of every file, in under two minutes
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_ONCE) -q -p tests.quick tests

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

promises: $(INSTALLED) ## Measure what the rooms promise of time and memory on this device (ROOMS="latent kv_cache" for some)
	$(BIN)/python -m benchmarks.promises $(if $(ROOMS),--rooms $(ROOMS))

gpu: $(INSTALLED) ## Check and measure all that needs a GPU, in eight minutes (OUT=_build/gpu; ARGS=--dry without one)
	PYTHON=$(BIN)/python bash gpu.sh $(or $(OUT),_build/gpu) $(ARGS)

compile-record: $(INSTALLED) ## Compile every kernel for every chip and record what came out (ROOMS="latent additive")
	$(BIN)/python -m tests.compile_gate record $(ROOMS)

mutants: $(INSTALLED) ## Judge every small change of every right solution (over an hour; UNITS="latent kv_cache" for some)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(UNITS) --jobs 2

# What would go wrong only where there is a GPU, found without one: tensors stay on the CPU.
pretend-gpu: export PYTHONPATH = tests/pretend_gpu
pretend-gpu: $(INSTALLED) ## Run every chapter and test as where there is a GPU that the course is told to leave alone
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.run_chapters
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_AT_ONCE) tests

versions: $(INSTALLED) ## Try the supported versions, each in its own environment (20 GB, an hour; VERSIONS=py312 for one)
	$(BIN)/python -m tests.versions $(VERSIONS)

exercises: $(INSTALLED) ## Regenerate exercises/ from solutions/
	$(BIN)/python -m attncourse release

bootstrap: $(INSTALLED) ## Regenerate what is generated in notebooks and pages: first cells, badges, tables
	$(BIN)/python -m attncourse bootstrap

format: $(INSTALLED) ## Format and lint the code, strip the notebooks' outputs
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m nbstripout --keep-id book/*.ipynb solutions/*/*.ipynb
	$(BIN)/python -m attncourse bootstrap

clean: ## Remove what was built and installed (.venv, _build)
	rm -rf _build $(VENV) *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

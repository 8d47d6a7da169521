# Python 3.11 or newer, make and git are all that is needed; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := data/demo
# A worker for each core; a file is run by one of them, those with slow tests first.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
# All from random weights on a CPU: few and small steps. benchmarks/demo_options.py has the same options.
DEMO_TRAIN := --video-weights none --set model.text_pooling=mean --epochs 8 --batch-size 16 --learning-rate 5e-4

.DEFAULT_GOAL := help
.PHONY: help install demo demo-modalities pictures quick test exhaustive test-all check lint types clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(STAMP)  ## Make .venv and install mmsent into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mmsent needs Python 3.11 or newer; give one as make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

# One thread: on frames so small a second one gains nothing, and with other work beside it the two wait for each other
# in a loop that burns up to three times the CPU. The same digits on any number of cores, too.
demo demo-modalities: export OMP_NUM_THREADS := 1

demo: $(STAMP)  ## Make a data set, preprocess it, train on it, evaluate: see docs/demo.md
	test -d $(DEMO)/meld || $(BIN)/mmsent make-demo $(DEMO)/meld
	$(BIN)/mmsent preprocess $(DEMO)/meld --out $(DEMO)/shards --text-encoder scratch --frames 4 --size 16x16
	$(BIN)/mmsent train --shards $(DEMO)/shards --out $(DEMO)/run $(DEMO_TRAIN) --resume
	$(BIN)/mmsent evaluate --run $(DEMO)/run
	@echo "Done. Scores, confusion matrices and training curves: $(DEMO)/run/evaluation-test/"

demo-modalities: $(STAMP)  ## Score each modality alone and all three, over three seeds, after `make demo`
	$(BIN)/python -m benchmarks.demo_options $(DEMO)/shards --work $(DEMO) --only text audio video all

pictures: $(STAMP)  ## Draw the picture of README.md, after `make demo`
	$(BIN)/python docs/pictures/make_pictures.py $(DEMO)/shards $(DEMO)/run

quick: $(STAMP)  ## Run the tests that take no more than a few seconds each
	$(PYTEST) -m 'not slow and not exhaustive'

test: $(STAMP)  ## Run the tests: every law, kill and fault
	$(PYTEST)

exhaustive: $(STAMP)  ## Run what `make test` samples on all cases, in processes started from nothing
	FRESH=1 HYPOTHESIS_PROFILE=exhaustive $(PYTEST) -m 'exhaustive or hypothesis'

test-all: test exhaustive  ## Run all tests on all cases, as CI does

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test-all  ## Everything that CI runs

clean:  ## Remove what make made
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis

PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help install browser demo docs test test-slow rounding learn lint ablation ablation-check

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with the package, editable, and the dev extra

.venv/package: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -e .
	touch $@

.venv/installed: .venv/package
	$(BIN)/pip install -e '.[dev]'
	$(BIN)/pip install --force-reinstall --no-deps opencv-python-headless # rtmlib brings others over it
	$(BIN)/pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
		--dest .venv/wheels mediapipe==0.10.21 # the last that contains the models
	touch $@

browser: ## install Debian's Chromium, for the tests of the web page, where there is none; needs root
	command -v chromium || { apt-get update && apt-get install -y --no-install-recommends chromium; }

demo: .venv/package ## animate an unseen person at three sharpnesses of the hands, into build/demo/demo.mp4 and .gif
	$(BIN)/python examples/demo.py --output $(DEMO)

test: .venv/installed ## run the tests, one thread in each of two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-slow: .venv/installed ## run the tests that take long and rarely fail alone, and four times as many random inputs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow
	OMP_NUM_THREADS=1 FUZZ_EFFORT=1 $(BIN)/pytest -n 2 tests/test_fuzz.py

docs: .venv/installed ## make the site of docs/ in build/docs
	$(BIN)/mkdocs build --strict

ROUNDING := tests/models tests/conversion tests/training tests/memory tests/metrics tests/pipelines

rounding: .venv/installed ## run the tests of numbers as on a processor that rounds otherwise
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --other-rounding -k "not compile" $(ROUNDING)

learn: .venv/installed ## train all stages for minutes on procedural people and measure what they learnt
	$(BIN)/pytest -m learn --log-cli-level=INFO

ablation: .venv/installed ## train and score the paper's ablations, and what hia-tiny reaches, into docs/results; hours
	$(BIN)/python benchmarks/hia_tiny_scores.py
	$(BIN)/python benchmarks/sharpness_slider.py --output build/sharpness --dtype bfloat16
	cp build/sharpness/slider.json build/sharpness/slider.png docs/results
	$(BIN)/python benchmarks/ablation.py

ablation-check: .venv/installed ## score hia-tiny again and compare with docs/results; a quarter of an hour
	$(BIN)/python benchmarks/hia_tiny_scores.py --check

lint: .venv/installed ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

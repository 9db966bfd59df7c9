PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test learn lint

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with the package, editable, and the dev extra

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -e '.[dev]'
	$(BIN)/pip install --force-reinstall --no-deps opencv-python-headless # rtmlib brings others over it
	touch $@

demo: .venv/installed ## animate a picture with a motion, both made on the spot, into build/demo/out.mp4
	$(BIN)/python examples/make_demo_inputs.py --output $(DEMO) --frames 16 --size 96x160
	$(BIN)/python examples/animate.py --image $(DEMO)/picture.png --driving $(DEMO)/motion.safetensors \
		--output $(DEMO)/out.mp4 --steps 10 --sharpness 0.5 --preview

test: .venv/installed ## run the tests, one thread in each of two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

learn: .venv/installed ## train all stages for minutes on procedural people and measure what they learnt
	$(BIN)/pytest -m slow --log-cli-level=INFO

lint: .venv/installed ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

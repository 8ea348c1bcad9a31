# Everything one does here, by one command each. `make help` lists it.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
# The newest supported Python that actually starts; override with PYTHON=/path/to/python.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  $$p -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && { echo $$p; break; }; done)
# Test processes at once. Each grows to 4 GB or so, most of it compiled programs.
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=30
STAMP := $(VENV)/.installed
BROWSER := $(or $(CHROMIUM),$(shell command -v chromium || command -v chromium-browser || command -v google-chrome))
BROWSER_NOTE = test -n '$(BROWSER)' || echo 'No Chromium was found: leaving out the tests that look at a page in a browser.'

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check docs wheels theory gridworld experiments bench bench-peers device-report device-kit clean

help:  ## Lists these commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Makes .venv with all that running and testing need (4 GB)

$(STAMP): setup.py
	@test -n '$(PYTHON)' || { echo 'No Python 3.11, 3.12 or 3.13 found; name one: make install PYTHON=/path/to/python' >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Trains offline DQN on CartPole with remedies and controls, draws the comparison
	$(BIN)/python -m implicit_rl.demo

test: $(STAMP)  ## Runs the tests but the exhaustive ones (JOBS=2 processes at once)
	@$(BROWSER_NOTE)
	$(PYTEST) -m 'not exhaustive$(if $(BROWSER),, and not browser)'

test-all: $(STAMP)  ## Runs every test; the exhaustive ones have more cases and dearer settings
	@$(BROWSER_NOTE)
	$(PYTEST) $(if $(BROWSER),,-m 'not browser')

check: $(STAMP)  ## Checks style and types; asks for known holes in the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(if $(shell command -v timeout),timeout 60) $(BIN)/pip-audit --skip-editable --progress-spinner=off \
	  || echo 'pip-audit found something, or has no network here: it only advises.'

docs: $(STAMP)  ## Builds the documentation's site, without the network (runs/site/index.html)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheels: $(STAMP)  ## Builds implicit_rl (wheel, sdist) and implicit-rl-rank (wheel), checks them (dist)
	rm -rf build dist
	$(BIN)/python -m build
	IMPLICIT_RL_DISTRIBUTION=rank $(BIN)/python -m build --wheel
	$(BIN)/twine check --strict dist/*

theory: $(STAMP)  ## Checks the paper's theory and draws its figures (1 minute; runs/theory)
	$(BIN)/python -m implicit_rl.theory --output=runs/theory

gridworld: $(STAMP)  ## Runs the gridworld figures, draws the map (about 10 minutes; runs/gridworld)
	$(BIN)/python -m implicit_rl.gridworld figures --output=runs/gridworld
	$(BIN)/python -m implicit_rl.gridworld map --output=runs/gridworld --table=docs/results/gridworld/map.csv

experiments: $(STAMP)  ## Measures the gridworld map and MinAtar and MuJoCo offline and online, small Pong and the leaderboard, anew (about thirteen hours on two cores; goes on where it stopped)
	$(BIN)/python -m implicit_rl.gridworld map --output=runs/gridworld
	$(BIN)/python experiments/minatar_offline.py --output=runs/minatar_offline
	$(BIN)/python experiments/regimes.py --output=runs/regimes
	$(BIN)/python experiments/minatar_online.py --output=runs/minatar_online
	$(BIN)/python experiments/mujoco_online.py --output=runs/mujoco_online
	$(BIN)/python experiments/mujoco_offline.py --output=runs/mujoco_offline --replays=runs/mujoco_online
	$(BIN)/python experiments/pong_small.py --output=runs/pong_small
	$(BIN)/python -m implicit_rl.leaderboard --results=runs/leaderboard/results --tune
	$(BIN)/python -m implicit_rl.leaderboard --results=runs/leaderboard/results

FRAMES := $(foreach game,Seaquest Breakout Qbert Asterix Pong,runs/frames/$(game).npz)

bench: $(STAMP) bench-peers $(FRAMES)  ## Times training, data path and SAC against other libraries (an hour and a half, most of it for making frames; runs/bench)
	mkdir -p runs/bench
	$(BIN)/python benchmarks/run_all.py | tee runs/bench/report.md
	PYTHONPATH=. .venv-peers/bin/python benchmarks/frame_codecs.py --replays $(FRAMES) | tee runs/bench/codecs.md
	$(BIN)/python benchmarks/data.py --replay $(firstword $(FRAMES)) | tee runs/bench/buffers.md
	$(BIN)/python benchmarks/data_scale.py --replays $(FRAMES) | tee runs/bench/scale.md
	$(BIN)/python benchmarks/data_training.py | tee runs/bench/training.md

runs/frames/%.npz: | $(STAMP)
	mkdir -p runs/frames
	$(BIN)/python experiments/atari_frames.py --game=$* --steps=101000 --updates_per_step=0.03 --replay=$@

device-report: .venv-peers/.installed  ## Measures this machine's CPU beside Flax and PyTorch for the docs (8 minutes; docs/results/performance/device_cpu.md)
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv-peers/report gin-config 'gymnax>=1.0.1,<1.1'
	PYTHONPATH=.:.venv-peers/report JAX_PLATFORMS=cpu .venv-peers/bin/python -m implicit_rl.measure_device --output=runs/device_report
	cp runs/device_report/device.md docs/results/performance/device_cpu.md

device-kit: $(STAMP)  ## Packs what measuring a GPU or TPU without a network needs (KIT_PYTHON=3.12: its Python; runs/device_kit)
	$(BIN)/python benchmarks/device_kit.py $(if $(KIT_PYTHON),--python=$(KIT_PYTHON))

bench-peers: .venv-peers/.installed  ## Makes .venv-peers with the libraries that bench compares with (2.2 GB)

.venv-peers/.installed: | $(STAMP)
	$(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --index-url https://download.pytorch.org/whl/cpu torch \
	  || .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check torch
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check d3rlpy stable-baselines3 sbx-rl 'gymnasium[mujoco]' zstandard lz4 blosc2
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv-peers/minatar MinAtar
	@touch $@

clean:  ## Removes caches and build leavings; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

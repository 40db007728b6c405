# Each target is the real command. `make demo` and `make test` work on a machine that has Python, git and make alone.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c \
	'import sys; (3, 11) <= sys.version_info[:2] < (3, 14) and print(sys.executable)' 2>/dev/null)))
TORCH ?= torch>=2.10,<2.14
# A test process that dies ends the run in words: xdist (3.8) may wait for ever for one that it started in its place.
PYTEST_FLAGS ?= -n 2 --max-worker-restart=0 --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-package torch --no-emit-index-url --no-header --custom-compile-command "make lock"

# Images like to set it; without bytecode each of the many processes would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo run test check bench faults soak fuzz hostile screenshots setup front tools browser lock

demo: setup front            ## fine-tune a small model in two minutes, and keep serving
	$(BIN)/studio demo

run: setup front             ## serve the studio from STUDIO_HOME
	$(BIN)/studio up

test: setup front tools browser  ## the whole test suite
	$(BIN)/pytest $(PYTEST_FLAGS)

check: setup front tools browser  ## format, lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/python hatch_build.py check
	$(BIN)/pytest $(PYTEST_FLAGS)

bench: setup front browser   ## the benchmarks, each beside its peer, fetched for it; fails where a goal is missed; BENCH="1a merging" takes some
	$(BIN)/python -m benchmarks $(BENCH)

faults: setup front browser  ## 3,000 faults in real studios; goes on where it stopped; FAULTS="--minutes 10"
	$(BIN)/python -m tests.faults $(FAULTS)

soak: setup front            ## a studio under steady load for twenty minutes; SOAK="--minutes 5"
	$(BIN)/python -m tests.faults.soak $(SOAK)

fuzz: setup front            ## random input against the API, the life of a run, uploads and every parser; FUZZ="--minutes 5"
	$(BIN)/python -m tests.fuzz $(FUZZ)

hostile: setup front browser ## each row of the table of hostile inputs by the clock, on a machine with nothing else to do
	$(BIN)/python -m tests.hostile $(HOSTILE)

screenshots: setup front browser  ## every page, at three widths, light and dark, English and Chinese
	$(BIN)/python -m tests.screenshots

setup: .venv/ready           ## the virtual environment, from the lock

.venv/ready: requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found. Install one, or: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

front:                       ## the front end, where its sources are newer
	@$(BIN)/python hatch_build.py

tools:                       ## what the front end's checks and tests use and a build does without
	@$(BIN)/python hatch_build.py tools

browser:                     ## a Chromium for the journeys, where there is none
	@$(BIN)/python -m tests.support.browsers

lock: setup                  ## exact versions and hashes of everything but torch
	$(COMPILE) --extra worker --extra dev -o requirements-dev.lock
	$(COMPILE) --extra worker -c requirements-dev.lock -o requirements.lock
	$(COMPILE) -c requirements-dev.lock -o requirements-web.lock

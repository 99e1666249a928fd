PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-slow mutants fuzz gpu-lab cifar-gpu claims-gpu check format clean

demo: $(VENV)/program  ## the whole system on the built-in data set, in minutes
	$(BIN)/alexnet demo --out demo

test: $(VENV)/ready  ## the fast tests, in minutes
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(VENV)/ready  ## the slow tests: killed runs, full-size equality, a training of every recipe
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal -rs

mutants: $(VENV)/ready  ## changes the code of each row of docs/paper.md; its tests must fail
	$(BIN)/python -m tests.mutants

fuzz: $(VENV)/ready  ## damaged files through every reader, and killed processes; a quarter of an hour
	$(BIN)/python -m tests.fuzz

bench-%: $(VENV)/ready  ## speed of this machine: bench-ops, -step, -loader, -infer, -scale (docs/performance.md: -prepare)
	$(BIN)/python -m benchmarks $*

# Not in the environment of the other targets: a rented machine has its own PyTorch, and no network.
OUT ?= gpu-lab
gpu-lab:  ## half an hour on a CUDA GPU: make gpu-lab OUT=FOLDER STAGES="facts correctness convs"
	$(PYTHON) -m benchmarks.gpu $(OUT) $(STAGES)

# Four runs at once: a net for 32 pixels leaves most of a card idle.
cifar-gpu:  ## the 11 % net in full, 520 epochs, with and without normalization, and the 13 % net: make cifar-gpu DATA=STORE
	$(PYTHON) -m alexnet reproduce lrn-cifar --data $(DATA) --scale full --jobs 4

# One claim after the other, so that each writes its record before the next begins; they share runs.
# Those with many runs come last. Ctrl-C ends the command, and a claim that fails does not.
CLAIMS ?= modern lrn overlap columns links bias dropout crops colour ensemble filters features depth ladder images
claims-gpu:  ## the claims on tiny-imagenet, those with few runs first: make claims-gpu DATA=STORE
	@failed=; for claim in $(CLAIMS); do \
	  $(PYTHON) -m alexnet reproduce $$claim --data $(DATA) --jobs 4 || \
	  case $$? in 130|143) exit 1;; *) failed="$$failed $$claim";; esac; \
	done; test -z "$$failed" || { echo "these claims have failed:$$failed" >&2; exit 1; }

check: $(VENV)/ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Without bytecode: Python compiles what is imported, which is a fraction of what is installed.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

$(VENV)/program: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "alexnet needs Python 3.11 or newer; name one, for example: make demo PYTHON=python3.12")'
	@echo "installing into $(VENV), a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/ready: $(VENV)/program
	@echo "installing what the tests need"
	$(INSTALL) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo gpu-lab .mypy_cache .pytest_cache .ruff_cache .hypothesis

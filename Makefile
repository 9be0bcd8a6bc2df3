# `make loop`: install, prepare the embedded corpus, run five experiments.  `make test`: every check.
PYTHON ?= python3
EXPERIMENTS ?= 5
BIN := .venv/bin

# Its scripts name the folder that they were made in: after a move it is made anew.
STALE := $(shell test ! -e .venv/.installed || $(BIN)/harness --version >/dev/null 2>&1 || rm -f .venv/.installed)

.PHONY: loop test lint
.DELETE_ON_ERROR:

.venv/.installed: pyproject.toml
	@echo 'Installing into .venv (two or three minutes, once) ...'
	@$(BIN)/pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python -m compileall -q harness tests  # also where PYTHONDONTWRITEBYTECODE is set, as in many images
	@touch $@

loop:
	@git var GIT_COMMITTER_IDENT >/dev/null  # what is kept is committed; ask before the long part
	@$(MAKE) -s --no-print-directory .venv/.installed
	@git diff --quiet HEAD -- train.py && clean=yes; $(BIN)/harness init || exit 1; \
	  [ -z "$$clean" ] || git diff --quiet HEAD -- train.py || { git add train.py .autoresearch/config.toml && \
	    git commit -qm 'Fit train.py to this machine' -- train.py .autoresearch/config.toml; }
	@$(BIN)/harness prepare
	@$(BIN)/harness loop --experiments $(EXPERIMENTS)
	@echo 'Next: source .venv/bin/activate, then harness --help'

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m 'not alone and not gpu' -n 3 --dist worksteal  # on 2 cores, too: a trial mostly waits
	$(BIN)/pytest -m 'alone and not gpu'
	$(BIN)/pytest -m gpu

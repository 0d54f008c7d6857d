# Two commands on a fresh machine with Python 3.11-3.13: `make quickstart` and `make test`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: quickstart test check coverage dist api docs version-check docker-lint setup parity-env clean

quickstart: $(VENV)/.installed
	$(BIN)/rsseg-tf quickstart -o quickstart

test: $(VENV)/.installed-test check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measuring branches makes the tests take more than twice as long, so `make test` does without.
# pyproject.toml has the floor of the whole; packages that read and write users' files have one of their own.
coverage: $(VENV)/.installed-test
	$(BIN)/python -m pytest --cov --cov-report= $(PYTEST_ARGS)
	@set -e; for package in files predict serving weights; do \
		printf "rsseg_tf.$$package, branches included, in %%: "; \
		$(BIN)/python -m coverage report --include="rsseg_tf/$$package/*" --format=total --fail-under=90; \
	done
	$(BIN)/python -m coverage report

# A source archive, and the wheel that is built from it.
dist: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# docs/api.md, from the docstrings.
api: $(VENV)/.installed-test
	$(BIN)/python docs/make_api.py

# The documentation as a site, in site/; a link that leads nowhere is an error.
docs: $(VENV)/.installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Look at it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site, then http://127.0.0.1:8000"

# The version of the package, the changelog, CITATION.cff and, with TAG=vX.Y.Z, the tag.
version-check:
	$(PYTHON) scripts/release.py check $(TAG)

# What hadolint finds in the Dockerfiles.
docker-lint: $(VENV)/.installed-test
	$(BIN)/hadolint --config .hadolint.yaml docker/*.Dockerfile

setup: $(VENV)/.installed-test

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: setup.py $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $@

# The original beside ours: see tests/parity/README.md.
PADDLESEG_URL ?= https://github.com/PaddlePaddle/PaddleSeg
parity-env:
	$(PYTHON) -m venv .parity
	.parity/bin/python -m pip install --quiet paddlepaddle==3.3.1 "numpy<2" paddleseg==2.8.0 scikit-image setuptools
	test -d .parity/PaddleSeg || git clone --quiet --depth 1 --branch develop $(PADDLESEG_URL) .parity/PaddleSeg

clean:
	rm -rf $(VENV) .parity build dist site *.egg-info quickstart .coverage .coverage.*

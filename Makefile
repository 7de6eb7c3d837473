# Two commands on a fresh machine: `make demo` and `make test`. Both set up everything they need.
PY := .venv/bin/python

.PHONY: demo test test-slurm check docs docs-serve format setup scenarios chaos lock clean
.DEFAULT_GOAL := demo

demo: setup           ## handwritten digits to an evaluated classifier and its page
	.venv/bin/instar demo

test: setup           ## the tests, without network or GPU
	$(PY) -m pytest -m "not scenario and not slurm" -n 2 --dist worksteal

test-slurm: setup     ## jobs in a real Slurm of two virtual nodes; needs root, and installs Debian's slurm-wlm and munge
	$(PY) -m pytest -m slurm

check: setup          ## format, lint, types, layers
	.venv/bin/ruff format --check instar tests benchmarks docs/_build
	.venv/bin/ruff check instar tests benchmarks docs/_build
	.venv/bin/mypy
	$(PY) -m pytest -q tests/test_layers.py
	$(MAKE) -s docs

docs: setup           ## the documentation as a site in build/site; a link that leads nowhere is a mistake
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

docs-serve: setup     ## the same while you write, on localhost
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

format: setup
	.venv/bin/ruff format instar tests benchmarks docs/_build
	.venv/bin/ruff check --fix instar tests benchmarks docs/_build

scenarios: setup      ## the slow tests too
	$(PY) -m pytest -m "not slurm" -n 2

chaos: setup          ## kill the training N times at random and compare with an undisturbed run
	$(PY) -m tests.scenarios.chaos --kills $(or $(N),100)

setup:
	@.ci/setup

lock: setup           ## resolve the dependencies anew
	.boot/bin/uv pip compile pyproject.toml --extra all --extra dev --extra bench -c .ci/floor.txt --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade -q -o requirements.lock

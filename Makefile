# make demo   try it: the real lmms-eval on the mini benchmarks, dense against STC, on a CPU
# make test   lint and all tests: on the newest transformers, on the oldest supported one, and in VLMEvalKit
PYTHON ?= python3
VENV   ?= .venv
OLDEST := 4.56.2

BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OLD    := $(VENV)-transformers-$(OLDEST)
VLM    := $(VENV)-vlmeval

MAKEFLAGS += --jobs=3  # the environments are made at the same time

.PHONY: demo test lint clean

demo: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" bash examples/01_demo.sh

# One process per core and one thread each: the models of the tests are too small for more. A file's tests stay
# together, for they share what they have built.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist loadfile
test: export OMP_NUM_THREADS := 1

test: lint $(OLD)/.ready $(VLM)/.ready
	$(OLD)/bin/python $(PYTEST) -q tests/towers tests/methods tests/models tests/memory tests/ops tests/bench \
	  tests/parity/test_verify.py -m 'not slow'
	STC_TEST_REQUIRE_VLMEVAL=1 $(VLM)/bin/python $(PYTEST) -q tests/integration/test_vlmeval_agrees.py \
	  tests/integration/test_vlmeval.py tests/eval/test_vlmeval.py
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

# Thin environments: they see the packages of the first, and have some of their own.
see_first = $(1)/bin/python -c 'import sysconfig, pathlib; \
  pathlib.Path(sysconfig.get_path("purelib"), "zz_base.pth").write_text("import site; site.addsitedir(%r)\n" % \
  sysconfig.get_path("purelib", vars={"base": "$(abspath $(VENV))", "platbase": "$(abspath $(VENV))"}))'

$(OLD)/.ready: $(READY)
	$(BIN)/python -m venv --without-pip $(OLD)
	$(BIN)/python -m pip --python $(OLD)/bin/python install --quiet --no-deps \
	  transformers==$(OLDEST) 'tokenizers>=0.22,<=0.23' 'huggingface-hub>=0.34,<1'
	$(call see_first,$(OLD))
	touch $@

# Apart because of antlr4: VLMEvalKit wants another version than what lmms-eval brings along. pip says so.
$(VLM)/.ready: $(READY)
	$(BIN)/python -m venv --without-pip $(VLM)
	$(call see_first,$(VLM))
	$(BIN)/python -m pip --python $(VLM)/bin/python install --quiet 'ms-vlmeval>=0.0.20'
	touch $@

clean:
	rm -rf $(VENV) $(OLD) $(VLM) results dist

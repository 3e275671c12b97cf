# make demo    set up and run the whole path on synthetic speech (under 8 minutes on two quiet cores)
# make demo-whisper   AN4 and Whisper tiny.en: a streaming student without transcripts (see recipes/Whisper/demo.yaml)
# make test    set up and run every check: lint, types, layers, tests
# make test-fast   the same without the tests that take over ten seconds
# make docs    build the documentation in build/site; warnings are errors
# make web     fetch onnxruntime-web for `--format web` (needs npm)
# make screenshot  write docs/browser.png from the demo's page (needs make demo and Chromium)
# make setup   only the virtual environment

PYTHON ?= python3
VENV := .venv
SETUP_GB := 8
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo demo-whisper test test-fast docs web screenshot lint clean

setup: $(READY)

$(READY): pyproject.toml
	@test -x $(BIN)/asr-kd || { \
	  free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); \
	  test "$$free" -ge $(SETUP_GB) || { \
	    echo "make setup: $$PWD has $$free GB of disk left; PyTorch with its CUDA libraries needs $(SETUP_GB)." \
	      "Free some, or put the checkout on a larger disk." >&2; exit 1; }; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# With a page for the browser where npm can fetch onnxruntime-web.
WEB := asr_kd/export/assets/onnxruntime-web

demo: $(READY)
	@test -d $(WEB) || ! command -v npm >/dev/null || $(BIN)/python -m asr_kd.export.web || true
	$(BIN)/python recipes/Synthetic/train_side_by_side.py $$(test ! -d $(WEB) || echo 'export.formats=[sherpa,web]')

demo-whisper: $(READY)
	$(BIN)/python recipes/Whisper/demo.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# In two processes; a process that dies fails the run.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow"

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

web: $(READY)
	$(BIN)/python -m asr_kd.export.web

screenshot: $(READY)
	ASR_KD_SCREENSHOT=docs/browser.png $(BIN)/python -m pytest tests/export/test_web.py -k pictured

clean:
	rm -rf $(VENV) exp build *.egg-info

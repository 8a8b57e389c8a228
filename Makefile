# Everything sets itself up: each target makes .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help docs demo demo-audit test-ray serve test test-fast test-slow test-packaging test-sdk test-sdk-smoke test-vllm test-vllm-smoke vllm-server check format bench pico clean test-gpu test-browser fuzz test-viewers

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# uv where it is installed: it takes a third of the time. What the demo needs comes first, the rest with the tests.
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check --no-warn-script-location)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"PolicyGuard needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.12")'
	@$(if $(UV),$(UV) venv --quiet --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Setting up $(VENV) for the demo: torch and transformers, a minute or two"
	$(INSTALL) -c constraints.txt -e '.[transformers]'
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Setting up $(VENV) for all tests: a few minutes, about 2 GB"
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.demo $(VENV)/.serve $@

$(VENV)/.serve: $(VENV)/.demo
	$(INSTALL) -c constraints.txt -e '.[server,transformers]'
	@touch $@

demo: $(VENV)/.demo  ## Judge drawn images under five policies with the packaged model
	$(BIN)/python -m policyguard demo

demo-audit: $(VENV)/.ready  ## Audit 2,000 scenes with the packaged model, killed and resumed on the way
	$(BIN)/python examples/demo_audit.py

serve: $(VENV)/.serve  ## Serve the PictoSafe policies with the packaged model, at http://127.0.0.1:8765
	$(BIN)/policyguard serve policies/pictosafe --images examples/images

test-ray: $(VENV)/.ready  ## Audit on a Ray cluster of two nodes on this machine
	$(BIN)/python -m pytest -m slow tests/runs/audit/test_ray.py --timeout 1800

test: $(VENV)/.ready  ## Run the tests, as many at a time as there are cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.venv-fast/.ready: pyproject.toml constraints.txt
	@echo "Setting up .venv-fast: about a minute, no model libraries"
	$(PYTHON) -m venv .venv-fast
	.venv-fast/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

test-fast: .venv-fast/.ready  ## Run what needs no model library, in an environment without them
	.venv-fast/bin/python -m pytest -n auto --dist loadfile \
		$(addprefix tests/,policy authoring strict images cache guard checking dialects runs cli integrations/extract test_deciding.py test_public.py)

test-slow: $(VENV)/.ready  ## Run the long suites
	$(BIN)/python -m pytest -m slow --timeout 3600

test-gpu: $(VENV)/.ready  ## Run what needs a CUDA device
	$(BIN)/python -m pytest -m gpu --timeout 1800

test-packaging: $(VENV)/.ready  ## Build the wheel, install it into a fresh environment, check from it
	$(BIN)/python -m pytest -m packaging --timeout 900

test-sdk: $(VENV)/.ready  ## Run the real SDKs over the HTTP middleware, in environments of their own
	$(BIN)/python tests/sdk/run.py

test-sdk-smoke: $(VENV)/.ready  ## The same with the newest SDKs alone, in at most four minutes
	$(BIN)/python tests/sdk/run.py --smoke --timeout 60
test-browser: $(VENV)/.ready  ## Look at HTML reports, the page of the service and the documentation in Chromium (Debian: apt install chromium chromium-driver)
	$(BIN)/python -m pytest -m browser --timeout 300

test-viewers: $(VENV)/.ready  ## Compare with Chromium and Firefox (Debian: apt install chromium firefox-esr)
	$(BIN)/python -m pytest -m viewers --timeout 900

.venv-vllm/.ready: integrations/vllm/setup_cpu.sh
	@echo "Setting up .venv-vllm: a few minutes, about 3 GB"
	PYTHON=$(PYTHON) integrations/vllm/setup_cpu.sh .venv-vllm

vllm-server: .venv-vllm/.ready  ## Serve the packaged model with vLLM on the CPU, at http://127.0.0.1:8000/v1
	integrations/vllm/serve_cpu.sh src/policyguard/models/pico pico 8000

test-vllm: $(VENV)/.ready .venv-vllm/.ready  ## Run the tests against real vLLM servers (CPU, 4 GB, minutes)
	$(BIN)/python -m pytest -m vllm tests/backends/remote/vllm_server --timeout 1200

test-vllm-smoke: $(VENV)/.ready .venv-vllm/.ready  ## The same in at most four minutes, on one server
	$(BIN)/python -m pytest -m vllm tests/backends/remote/vllm_server/test_smoke.py --timeout 1200

FUZZ_SECONDS ?= 1200
fuzz: $(VENV)/.ready  ## Fuzz the image decoder, guided by coverage (Linux; FUZZ_SECONDS=1200)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	mkdir -p runs/fuzz
	PYTHONPATH=src:tests $(BIN)/python tests/images/fuzz.py runs/fuzz tests/images/corpus \
		-max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=30 -rss_limit_mb=2048 -artifact_prefix=runs/fuzz-

docs: $(VENV)/.ready  ## Build the documentation site in build/site; a broken link is an error
	$(BIN)/python docs/build.py
	@echo "To read it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

check: $(VENV)/.ready  ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.ready  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready  ## Compare side by side, as ratios
	PYTHONPATH=tests $(BIN)/python benchmarks/run.py

pico: $(VENV)/.ready  ## Train the packaged model again (two hours on two cores; fetches emoji and icons by npm and apt-get)
	$(BIN)/python -m pip install -q resvg-py
	$(BIN)/python train/pico/build_glyphs.py --out runs/glyphs
	$(BIN)/python train/pico/train.py --out runs/pico
	$(BIN)/python train/pico/evaluate.py runs/pico/model --json runs/pico/report.json
	$(BIN)/python train/pico/card.py runs/pico/report.json --run runs/pico --out runs/pico/model/README.md
	@echo "runs/pico/model is the new pico; copy it over src/policyguard/models/pico to ship it"

clean:  ## Remove the environment and what was built
	rm -rf $(VENV) .venv-fast build dist runs .pytest_cache .mypy_cache .ruff_cache

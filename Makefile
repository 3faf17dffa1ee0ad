# The two commands of the README are `make demo` and `make test`. Each makes .venv when it is missing, installs
# into it what it needs, and does its work; the second time the installation is a stamp that is already there.
#
#   make demo        the bundled requests through all five steps; writes out/demo.png
#   make dataset-demo
#                    a dataset made, rated and trained on, by the bundled models and scripted raters
#   make test        the tests, at most 8 minutes on two cores
#   make test-slow   the tests behind the `slow` marker
#   make lint        ruff and mypy
#   make gpu-check   what a CUDA card makes of it all, beside named peers; goes on from out/gpu where it stopped. Within a
#                    Python that has torch for the card: make gpu-check GPU_PYTHON=python3. GPU_FLAGS: --toy, --only edit,
#                    --comfyui /path/to/ComfyUI
#   make test-comfyui COMFYUI_PATH=/path/to/ComfyUI
#                    a real server with this pack in it, and its page in Chromium. COMFYUI_PYTHON: the server's Python,
#                    where it is not this one; COMFYUI_FRONTEND: the folder of another frontend

VENV   ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
            $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)
# Asked for by name because requirements.txt must not touch the torch that ComfyUI brings. A smaller, CPU-only torch:
#   make demo TORCH="torch>=2.14 torchvision --index-url https://download.pytorch.org/whl/cpu"
TORCH  ?= torch>=2.14 torchvision
JOBS   ?= 2

PY      = $(VENV)/bin/python
PIP     = $(PY) -m pip --disable-pip-version-check
RUN     = $(VENV)/.installed
DEV     = $(VENV)/.installed-dev
LIVE    = $(VENV)/.installed-comfyui
PYTEST  = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(PY) -m pytest -c tests/pytest.ini --rootdir tests

.PHONY: demo dataset-demo test test-slow test-comfyui gpu-check lint clean
.DEFAULT_GOAL := demo

demo: $(RUN)
	$(PY) -m evlm.cli.demo

dataset-demo: $(DEV)
	$(PY) -m trainer data demo out/dataset-demo

test: $(DEV)
	$(PYTEST) -n $(JOBS) --dist worksteal tests

test-slow: $(DEV)
	$(PYTEST) -m slow tests

test-comfyui: $(if $(COMFYUI_PATH),$(LIVE))
ifeq ($(COMFYUI_PATH),)
	@echo "tests/comfyui skipped: COMFYUI_PATH is not set"
else
	$(PYTEST) -s tests/comfyui
endif

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) -m mypy

gpu-check: $(if $(GPU_PYTHON),,$(DEV))
	HF_HUB_OFFLINE=1 $(or $(GPU_PYTHON),$(PY)) -m benchmarks.gpu $(GPU_FLAGS)

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache

$(PY):
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer with its venv module is needed (Debian: apt install python3-venv); or: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# sam2 comes as source only. With isolation its build would fetch torch a second time, and with CUDA's compiler at hand
# it would compile an extension that we do not use; so it is built alone, against the torch that is already here.
$(RUN): requirements.txt | $(PY)
	$(PIP) install --quiet --upgrade pip setuptools wheel
	$(PIP) install --quiet $(foreach word,$(TORCH),'$(word)')
	SAM2_BUILD_CUDA=0 $(PIP) install --quiet --no-build-isolation "$$(grep '^sam2' requirements.txt)"
	$(PIP) install --quiet -r requirements.txt
	touch $@

$(DEV): requirements-dev.txt $(RUN)
	$(PIP) install --quiet -r requirements-dev.txt
	touch $@

$(LIVE): tests/comfyui/requirements.txt $(DEV)
	$(PIP) install --quiet -r tests/comfyui/requirements.txt
	touch $@

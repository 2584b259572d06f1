# Two commands do everything: `make train` runs the main job, `make test` passes the tests; both start from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PLANS := build/plans
NVRTC := build/nvrtc
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadgroup

.PHONY: train test test-all test-gpu bench-gpu parity lint types docs bench kernels-cuda plans-cuda clean

train: $(VENV)/.core
	$(BIN)/phalanx run -n 2 examples/fashion_mnist.py --model cnn --epochs 2

test: $(VENV)/.test
	$(BIN)/phalanx warmup --threads 1
	$(PYTEST) -m "not whole"

test-all: $(VENV)/.test $(VENV)/.torch
	$(BIN)/phalanx warmup --threads 1
	$(PYTEST)

# the comparisons with PyTorch, which is a peer and never a dependency
parity: $(VENV)/.test $(VENV)/.torch
	$(PYTEST) -m "torch and not whole"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# all CUDA kernels, which needs no GPU: by NVRTC as CuPy does it on a device, and by nvcc, which tells registers, shared memory and spills
kernels-cuda: $(VENV)/.core $(NVRTC)/.made $(if $(shell command -v nvcc),,$(VENV)/.nvcc)
	$(BIN)/python -m tests.gpu.nvrtc $(NVRTC)/site
	$(BIN)/python tests/gpu/compile_kernels.py

$(NVRTC)/.made: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(NVRTC)/site \
	    nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96
	@touch $@

# on a machine with a GPU, by an interpreter that has CuPy and pytest (nothing is installed): make test-gpu OUT=logs PYTHON=python3
# without a GPU: make test-gpu ARGS=--rehearse PYTHON=.venv/bin/python
test-gpu:
	PYTHONPATH=.:$(PYTHONPATH) $(PYTHON) tests/gpu/on_device.py --output $(or $(OUT),build/gpu) $(ARGS)

# the same for times, beside PyTorch: benchmarks/results/gpu.md, .json, .png; under ten minutes
bench-gpu:
	PYTHONPATH=.:$(PYTHONPATH) $(PYTHON) benchmarks/gpu.py --output $(or $(OUT),benchmarks/results) $(ARGS)

# the site of docs/, into build/site; a link that leads nowhere is an error
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# against PyTorch on the CPU: benchmarks/results/cpu.md, .json, .png; under ten minutes on two cores
bench: $(VENV)/.bench $(VENV)/.torch
	$(BIN)/python benchmarks/bench.py

# cuDNN's plans for what the examples need on an H100, made where there is none: supported, and with how much workspace?
# And our bindings and stand-ins beside the real cuBLASLt and CuPy, as far as those go without a device.
plans-cuda: $(VENV)/.test $(PLANS)/.made
	LD_LIBRARY_PATH=$(PLANS)/absent:$(PLANS)/site/nvidia/cudnn/lib:$(PLANS)/site/nvidia/cu13/lib PYTHONPATH=.:$(PLANS)/site \
	    $(BIN)/python tests/gpu/plans.py
	CUDA_HOME=$(abspath $(PLANS))/site/nvidia/cu13 PYTHONPATH=.:$(abspath $(PLANS))/site \
	    $(BIN)/python -m pytest -q tests/gpu/test_cublaslt_header.py tests/gpu/test_standin_honest.py

# 1.3 GB, in a folder of its own: no user of the CPU needs any of it
$(PLANS)/.made: tests/gpu/absent_driver.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(PLANS)/site \
	    nvidia-cudnn-frontend==1.23.0 nvidia-cudnn-cu13==9.19.0.56 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 \
	    nvidia-cuda-runtime==13.0.96 nvidia-nccl-cu13==2.28.9 cupy-cuda13x==14.2.0 "cuda-pathfinder>=1.3.4,<2"
	$(BIN)/python tests/gpu/absent_driver.py $(PLANS)/site $(PLANS)/absent
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mpi,cpu,test]'
	@touch $@ $(VENV)/.core

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mpi,cpu,test,dev]'
	@touch $@ $(VENV)/.core $(VENV)/.test

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,plot]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/.core

# where no nvcc is installed: NVIDIA's wheels of it
$(VENV)/.nvcc: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* \
		nvidia-nvvm==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.*
	@touch $@

$(VENV)/.torch: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache phalanx.egg-info

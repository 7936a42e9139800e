# Every target is one line of intent; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CACHE := $(or $(EVENKEEL_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/evenkeel)
UV := $(or $(shell command -v uv),$(CACHE)/uv/bin/uv)
RUN := $(UV) run --frozen --all-extras

.PHONY: help setup binaries demo test unit check format lint types layers crds images chaos clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what the machine lacks: host packages, uv, Python packages
	@sandbox/install-host.sh
	@[ -x "$(UV)" ] || { python3 -m venv $(CACHE)/uv && $(CACHE)/uv/bin/pip install -q uv==0.13.9; }
	@$(UV) sync --quiet --frozen --all-extras

binaries: setup ## Build the sandbox's Kubernetes, where the cache lacks it
	@$(RUN) python -m evenkeel_sandbox.binaries

demo: setup ## A cluster, three jobs, from apply to Succeeded (all set-up included)
	@$(RUN) python -m evenkeel_sandbox.demo

test: binaries ## All tests, the ones on a real cluster included (all set-up included)
	@$(RUN) python -m pytest

unit: setup ## The tests that need no cluster
	@$(RUN) python -m pytest -m 'not sandbox'

check: setup lint types layers crds ## Format, lint, types, layers, generated files

format: ## Rewrite the code in the project's format
	@$(UV) run --frozen --all-extras ruff format . && $(RUN) ruff check --fix .

lint:
	@$(RUN) ruff format --check --quiet . && $(RUN) ruff check --quiet .

types:
	@$(RUN) mypy

layers:
	@$(RUN) lint-imports

crds:
	@$(RUN) python -m evenkeel_kube.crds --check

images: setup ## Build the container images into dist/images
	@$(RUN) python images/build.py

chaos: binaries ## Kill operator, extender, kubelets at random moments of a running demo
	@$(RUN) python -m evenkeel_sandbox.chaos

clean: ## Stop this checkout's sandboxes and remove what the tools left in it
	@$(RUN) evenkeel sandbox down --mine || true
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

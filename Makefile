# The few commands of the project. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help up install tools engines test faults check format gen baseline constraints clean

BIN := .venv/bin
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

up: install ## install, then start everything in one process with a simulated fleet (ARGS="--no-fleet --data DIR")
	@exec $(BIN)/wq up $(ARGS)

install: ## only the environment, .venv, from pinned and hashed packages (PYTHON=... to choose one)
	@deploy/install.sh

tools: ## what the tests need besides: Debian packages (as root) and Go programs
	@deploy/test_tools.sh

engines: ## Kafka, RabbitMQ and an S3 server for `wq engines up`: Debian packages (as root), jars, Go programs
	@deploy/engines/install.sh

test: tools install ## set up what is missing, then run every test (ARGS="-k words" for some)
	@$(if $(filter true,$(CI)),WQ_REQUIRE_ENGINES=1 )$(BIN)/pytest $(ARGS)

faults: tools engines install ## the whole fault suite on real engines, about an hour; writes docs/reliability.md (ARGS="--only NAME" for some)
	@$(BIN)/python -m tests.faults $(or $(ARGS),--write docs/reliability.md)

check: install ## contracts, format, lint, types, house rules
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/baseline.binpb
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/pytest tests/house

format: install ## put protos and Python into their one format
	@$(BIN)/buf format --write
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

gen: install ## gen/ anew from protos/, docs/settings.md from the settings
	@$(BIN)/python protos/generate.py
	@$(BIN)/python deploy/settings_page.py docs/settings.md

baseline: install ## accept the protos as they are as what callers rely on
	@echo "From now on \`buf breaking\` compares with the protos as they are. Right at a release; wrong to silence a break."
	@$(BIN)/buf build -o protos/baseline.binpb

constraints: ## constraints.txt anew from pyproject.toml, with the newest versions allowed (needs uv)
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --upgrade --quiet \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file constraints.txt

clean: ## remove everything that can be made again; data directories stay
	@rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

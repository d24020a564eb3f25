# Every command a developer needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Spinning OpenMP threads double the CPU time when several processes share few cores.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo experiment demo-model lexicon test check format up down migrate openapi env-example bench faults soak fuzz

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(STAMP) ## Create .venv with exactly the versions of constraints.txt

demo: $(STAMP) ## The whole chain on this machine: draw, train, test on real digits; results in demo/
	$(BIN)/synthclone demo --data demo

experiment: $(STAMP) lexicon ## Both figures for digits: prompts by guidance, and sizes; results in experiment/
	$(BIN)/synthclone experiment experiments/digits.yaml --local experiment

demo-model: $(STAMP) lexicon ## Train the built-in generator digits-sd again (ten to twenty minutes)
	$(BIN)/python -m services.standalone.demo_model --out models/digits-sd

lexicon: $(STAMP) ## Read WordNet 3.0 into data/lexicon.json unless it is there
	test -f data/lexicon.json || $(BIN)/synthclone lexicon build

# A thread each, or one process would keep the cores of both busy; tests/pieces.py says what a piece of work is.
test: $(STAMP) lexicon ## Every test, against the PostgreSQL and Redis servers of this machine
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

check: $(STAMP) ## Formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

up: ## Start the services in Docker (needs Docker Compose 2 and .env; without Docker: synthclone up)
	docker compose up --detach --build --wait

down: ## Stop the services in Docker; volumes stay
	docker compose down

migrate: $(STAMP) ## Bring the configured database and bucket up to date
	$(BIN)/synthclone migrate

openapi: $(STAMP) ## Write openapi.json from the code
	$(BIN)/python -m services.prompt_api.openapi > openapi.json

env-example: $(STAMP) ## Write .env.example from the settings
	$(BIN)/python -c 'from shared.settings import env_example; print(env_example(), end="")' > .env.example

bench: $(STAMP) lexicon ## Benchmarks that print ratios against a named baseline; results in bench/results/
	$(BIN)/python -m bench.generate
	$(BIN)/python -m bench.generation
	$(BIN)/python -m bench.approximations
	$(BIN)/python -m bench.accept_in1k
	$(BIN)/python -m bench.manifest
	$(BIN)/python -m bench.demo
	$(BIN)/python -m bench.input_path
	$(BIN)/python -m bench.train_step
	$(BIN)/python -m bench.logistic
	$(BIN)/python -m bench.claims
	$(BIN)/python -m bench.worker
	$(BIN)/python -m bench.tables

fuzz: $(STAMP) lexicon ## Fifty generated requests for each operation of the API
	SYNTHCLONE_FUZZ_EXAMPLES=50 $(BIN)/python -m pytest tests/prompt_api/test_schema_conformance.py

SEED ?= 1
MINUTES ?= 30
faults: $(STAMP) lexicon ## Every fault once, then random ones: a table of what was lost and how long recovery took
	$(BIN)/python -m tests.faults --seed $(SEED)

soak: $(STAMP) lexicon ## Random faults for MINUTES=30, in the order that SEED=1 gives
	$(BIN)/python -m tests.faults --seed $(SEED) --minutes $(MINUTES)

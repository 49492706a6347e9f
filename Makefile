# Every target makes .venv first, when it is missing, older than what it was made from, or made in another directory.

PYTHON_BIN := .venv/bin/python
BACKEND ?= sqlite
FILE ?=
SHARE ?= 1
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: demo test soak check bench help again

ifneq ($(shell cat .venv/.stamp 2>/dev/null),$(CURDIR))
STALE := again
endif
ifeq ($(wildcard $(PYTHON_BIN)),)
STALE := again
endif

demo: .venv/.stamp ## Tell the story on a sample; BACKEND=memory|sqlite|postgres, FILE=your.jsonl
	@.venv/bin/llmspell quickstart $(if $(FILE),"$(FILE)") --backend $(BACKEND)

test: .venv/.stamp ## Run every test, on all three backends (PostgreSQL included), in WORKERS processes (2)
	$(PYTHON_BIN) -m pytest -n $(WORKERS) --dist worksteal

soak: .venv/.stamp ## What repeats, at its long size (a night); SHARE=0.01 takes a hundredth. Prints what was tried and lost
	SOAK=$(SHARE) $(PYTHON_BIN) -m pytest -q tests/property tests/tenancy tests/concurrency tests/crash tests/planted

check: .venv/.stamp ## Lint, check the formatting, the types and the layers
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m ruff format --check .
	$(PYTHON_BIN) -m mypy
	.venv/bin/lint-imports

bench: .venv/.stamp ## Run the benchmarks on small sizes; FILE=dialogues.json adds recall on your conversations
	$(PYTHON_BIN) benchmarks/embed.py --rounds 10
	$(PYTHON_BIN) benchmarks/units_of_work.py --small
	$(PYTHON_BIN) benchmarks/row_level_security.py --small
	$(PYTHON_BIN) benchmarks/small_tenants.py --small
	$(PYTHON_BIN) benchmarks/vectors.py --rows 10000 --questions 200
	$(PYTHON_BIN) benchmarks/vectors_postgres.py --rows 2000 --questions 50 --sets easy
	$(PYTHON_BIN) benchmarks/vectors_postgres.py --crowd 20000 --questions 50 --sets hard
	$(PYTHON_BIN) benchmarks/graph.py --small
	$(PYTHON_BIN) benchmarks/storage.py --small
	$(PYTHON_BIN) benchmarks/access_keys.py --small
	$(PYTHON_BIN) benchmarks/events.py --small
	$(PYTHON_BIN) benchmarks/transfer.py --small
ifneq ($(FILE),)
	for backend in memory sqlite postgres; do $(PYTHON_BIN) benchmarks/recall.py "$(FILE)" --backend $$backend || exit 1; done
endif

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

.venv/.stamp: pyproject.toml constraints.txt scripts/set_up.sh $(STALE)
	@./scripts/set_up.sh

again:

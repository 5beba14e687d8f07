# Everything a contributor runs. `make help` lists the targets.
PYTHON ?= python3
# Another build of torch, for example CPU only or another CUDA: make setup TORCH_INDEX=<index URL>, see README.
TORCH_INDEX ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# What `make show` leaves out: all but these columns.
HIDDEN := ^(?!Experiment$$|rev$$|valid\.(days|stocks_per_day|rank_ic|rank_ic_t|sharpe|sharpe_net|turnover)$$|train\.(model|optimizer|lr)$$).*$$
# What `make review` compares: make review BASE=main CANDIDATE=my-experiment
BASE ?= main
CANDIDATE ?= HEAD

.PHONY: help setup repro test check format show reset review experiments verify gc clean-exps lock

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

setup: .venv/.locked ## create .venv from the lock

.venv/.locked: requirements.lock
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),.venv/bin/pip install -q $(shell grep '^torch==' requirements.lock) --index-url $(TORCH_INDEX))
	.venv/bin/pip install -q -r requirements.lock
	touch $@

repro: setup ## run the five stages that are out of date
	dvc repro

test: setup ## run the whole suite
	python -m pytest

check: setup ## ruff, pyright, import-linter
	ruff format --check src tests benchmarks docs
	ruff check src tests benchmarks docs
	pyright
	PYTHONPATH=src lint-imports

format: setup ## let ruff rewrite what it can
	ruff format src tests benchmarks docs
	ruff check --fix src tests benchmarks docs

show: setup ## experiments of this commit and its parents, valid columns only
	@dvc exp show -n 3 --md --drop '$(HIDDEN)' --sort-by valid.rank_ic --sort-order desc

# DVC writes params.yaml within the second in which Git looked, and as long as it was: touched, it is looked at again.
reset: ## knobs and results as the last commit has them, after an experiment that ended or failed; code stays
	@touch params.yaml && git checkout -q HEAD -- params.yaml dvc.lock metrics && .venv/bin/dvc checkout -q

review: ## metrics, knobs and verdict of CANDIDATE (HEAD) against BASE (main); needs no data
	@found=$$(dvc metrics diff --md $(BASE) $(CANDIDATE) | grep -E '^\| (Path|-|metrics/evaluate.json +\| valid\.)'); \
	  case "$$found" in *evaluate.json*) ;; *) found="No change.";; esac; \
	  printf '### Metrics on valid, primary horizon\n\n%s\n' "$$found"
	@found=$$(dvc params diff --md $(BASE) $(CANDIDATE)) || exit 1; \
	  case "$$found" in *params.yaml*) ;; *) found="No change.";; esac; \
	  printf '\n### Knobs\n\n%s\n\n' "$$found"
	@python src/verdict.py $(BASE) $(CANDIDATE) --format markdown

experiments: setup ## run the list in docs/experiments.yaml, the roadmap's refinements, and judge it; takes hours
	@python src/experiments.py docs/experiments.yaml

verify: setup ## hash every object of DVC's cache: what is damaged, whose it is, how to mend it
	@python src/upkeep.py verify

gc: setup ## count what no branch, tag, experiment or workspace uses of DVC's cache; DELETE=1 removes it
	@python src/upkeep.py gc $(if $(DELETE),--delete) $(if $(PROJECTS),--projects $(PROJECTS))

clean-exps: setup ## remove folders, processes and queue entries that crashed experiments left
	@python src/upkeep.py experiments

lock: setup ## resolve pyproject.toml into requirements.lock again
	pip-compile -q --upgrade --extra dev --strip-extras --no-annotate --no-header --no-emit-options \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml
	sed -i 's/+cpu$$//' requirements.lock  # the lock names a version, not a build

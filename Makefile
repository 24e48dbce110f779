# `make demo` and `make test` do all the set-up on a fresh machine: a virtual environment in .venv with the
# versions of constraints.txt, and this checkout installed in it.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint clean
.PHONY: bench-hippocampus bench-left-atrium bench-screen-hippocampus bench-ablation bench-slots bench-modalities
.PHONY: bench-throughput bench-memory bench-metrics bench-localisation
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Foveate needs Python 3.11 or newer, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1)."; \
	  echo "Install it, or name it: make PYTHON=/path/to/python3.12 test"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Setting up .venv (torch is large: minutes the first time, never again until the pins change)"
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/foveate demo

# One process a core, each with one thread: most tests are too small for two.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each benchmark writes its table into docs/benchmarks.md; the first four train for hours, and go on where they stopped.
DATA := $(or $(FOVEATE_DATA),../shared/data)
LABEL_EFFICIENCY := $(BIN)/foveate bench label-efficiency
PLACES := --results benchmarks/results --work benchmarks/runs --docs docs/benchmarks.md
METHODS ?= supervised,self_training,mean_teacher,copy_paste
LABELS ?= 8
SEEDS ?= 3
MINUTES ?= 15
FULL = --methods $(METHODS) --labels $(LABELS) --seeds $(SEEDS) --minutes $(MINUTES) --ceiling

bench-hippocampus: $(READY)
	$(LABEL_EFFICIENCY) $(DATA)/hippocampus --classes anterior=1,posterior=2 $(FULL) $(PLACES) \
	  --score benchmarks/splits/hippocampus_test.txt

bench-left-atrium: $(READY)
	$(LABEL_EFFICIENCY) $(DATA)/left_atrium --classes atrium=1 $(FULL) $(PLACES) \
	  --score benchmarks/splits/left_atrium_test.txt

# Every method on cases that are not those of the test, which stay untouched: for choosing.
bench-screen-hippocampus: $(READY)
	$(LABEL_EFFICIENCY) $(DATA)/hippocampus --classes anterior=1,posterior=2 --methods all --labels 8 --seeds 1 \
	  --minutes 10 --clock processor --threads 1 --score benchmarks/splits/hippocampus_validation.txt \
	  --without benchmarks/splits/hippocampus_test.txt $(PLACES) --section hippocampus-validation

# Every attention block, screened on the same cases as the methods: SEEDS=1 first, and BLOCKS=... of those that lead.
BLOCKS ?= all
bench-ablation: $(READY)
	$(BIN)/foveate bench ablation $(DATA)/hippocampus --classes anterior=1,posterior=2 --blocks $(BLOCKS) \
	  --minutes 3 --clock processor --threads 1 --score benchmarks/splits/hippocampus_validation.txt \
	  --without benchmarks/splits/hippocampus_test.txt --results benchmarks/results --work benchmarks/runs \
	  --seeds $(SEEDS) --docs docs/attention.md

bench-slots: $(READY)
	$(BIN)/foveate bench slots --threads 1 --docs docs/attention.md

bench-throughput: $(READY)
	$(BIN)/python benchmarks/throughput.py

bench-memory: $(READY)
	$(BIN)/python benchmarks/predict_memory.py

bench-metrics: $(READY)
	$(BIN)/python benchmarks/metrics_speed.py

bench-modalities: $(READY)
	$(BIN)/python benchmarks/modalities.py

bench-localisation: $(READY)
	for seed in 0 1 2; do \
		$(BIN)/python benchmarks/localisation.py --steps 9000 --size 96 --seed $$seed --write localisation-$$seed \
		--set "augment.mirror=[0,1]" augment.rotation_degrees=180 || exit 1; done

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# make help lists the targets. Python 3.11 or newer, git and make are all that a fresh clone needs.
PYTHON ?= python3
# The CPU build; for another one, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install reproduce test docs wheel golden weights headers pairs probes unseen reference ablation gap towers candidate edits bench scale fuzz rules inspect screenshots clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## build .venv when it is missing or its pins have changed

# torch goes first and without its dependencies: only this one package is asked of its own index.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "exiflang needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "pip>=25.1" # the first that knows --group
	$(BIN)/python -m pip install --no-deps --extra-index-url $(TORCH_INDEX) -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e ".[all]" --group dev --group docs
	@touch $@

reproduce: $(INSTALLED) ## data, training and evaluation of the demo, into reports/runs/<id>/
	$(BIN)/python -m exiflang.pipeline --preset demo

test: $(INSTALLED) ## ruff, mypy, stripped notebooks, pytest; notebooks run with the tiny preset and are compared by nbval
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/python -m mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder

docs: $(INSTALLED) ## build docs/_build/html, with the newest run of reports/runs (or the tiny preset) as tutorials
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

wheel: $(INSTALLED) ## build dist/*.whl, and look into a picture with it and the core alone in a fresh venv (needs network)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .
	PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX) .ci/wheel dist/*.whl

golden: $(INSTALLED) ## renew reports/golden/demo.json (several seeds, with controls: long)
	$(BIN)/python -m experiments.golden

weights: $(INSTALLED) ## package data/models/base with its figures; PHOTOS=authentic ones (needs data, see base.yaml)
	$(BIN)/python -m exiflang.release $(addprefix --photos ,$(PHOTOS))
	$(BIN)/python -m experiments.packaged_readout
	$(BIN)/python -m experiments.metadata_check
	$(BIN)/python -m experiments.packaged_weights
	$(BIN)/python -m experiments.yardstick
	$(BIN)/python -m experiments.readout_figures

headers: $(INSTALLED) ## renew reports/golden/headers.json: JPEG headers against the EXIF (needs photos as cameras wrote them)
	$(BIN)/python -m experiments.header_check

pairs: $(INSTALLED) ## renew reports/golden/camera_pairs.json, and calibrate exiflang compare (needs ../shared)
	$(BIN)/python -m experiments.camera_pairs

probes: $(INSTALLED) ## renew reports/golden/probe.json: what embeddings tell (needs data, see base.yaml: half an hour)
	$(BIN)/python -m experiments.linear_probes

unseen: $(INSTALLED) ## renew reports/golden/unseen_cameras.json: does EXIF fit? (needs data, see base.yaml: half an hour)
	$(BIN)/python -m experiments.unseen_cameras

reference: $(INSTALLED) ## renew reports/golden/reference.json: what the paper's protocol costs (needs data, see base.yaml)
	$(BIN)/python -m experiments.reference_protocol

ablation: $(INSTALLED) ## renew ablation.json, readout_ablation.json and exif_recipes.json (needs real photos, see base.yaml: hours)
	$(BIN)/python -m experiments.ablation
	$(BIN)/python -m experiments.readout_ablation
	$(BIN)/python -m experiments.exif_recipes

gap: $(INSTALLED) ## renew reports/golden/localization_gap.json: what tower and readout could still find (needs ../shared)
	$(BIN)/python -m experiments.yardstick
	$(BIN)/python -m experiments.localization_gap

towers: $(INSTALLED) ## renew reports/golden/tower_recipes.json: which training finds more (needs real photos, see base.yaml: two hours)
	$(BIN)/python -m experiments.yardstick
	$(BIN)/python -m experiments.tower_recipes

candidate: $(INSTALLED) ## train data/models/exiflang-next and renew reports/golden/candidate.json (needs real photos: three hours)
	$(BIN)/python -m experiments.yardstick
	ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node=2 -m experiments.candidate_training
	$(BIN)/python -m experiments.candidate

edits: $(INSTALLED) ## renew encoders.json and reports/golden/edited_headers.json (needs real photos, GIMP, ImageMagick 6, exiftool)
	$(BIN)/python -m experiments.edited_headers

bench: $(INSTALLED) ## renew reports/golden/speed.json by notebooks/06_speed, on an idle machine (half an hour)
	$(BIN)/python -m experiments.speed

scale: $(INSTALLED) ## renew reports/golden/scale.json: how fast data is prepared (needs real photos: half an hour)
	$(BIN)/python -m experiments.speed.scale

fuzz: $(INSTALLED) ## renew reports/golden/fuzz.json: 20,000 broken pictures of each format through all that reads a file (hours)
	$(BIN)/python -m tests.fuzzing

rules: $(INSTALLED) ## renew reports/golden/metadata_rules.json: how often rules on metadata find something (needs real photos)
	$(BIN)/python -m experiments.metadata_rules

# The limit of a message bounds what can be uploaded; paths and folders have none.
inspect: $(INSTALLED) ## look into a picture: notebooks/04_inspect in JupyterLab, on the whole screen
	$(BIN)/jupyter lab --LabApp.default_url=/doc/tree/notebooks/04_inspect.ipynb \
	  --ServerApp.tornado_settings='{"websocket_max_message_size": 268435456}'

screenshots: $(INSTALLED) ## renew the README's pictures of the inspector (needs chromium)
	$(BIN)/python -m tests.screenshots

clean: ## forget generated data, demo weights and runs (never data/models/exiflang-base)
	rm -rf data/demo data/tiny data/ablation data/models/demo data/models/demo-shuffled data/models/tiny reports/runs docs/_build docs/_generated

# Every target sets up what it needs: Python 3.11 to 3.13, git and make are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= $(CURDIR)/.venv
RUN    := PATH="$(VENV)/bin:$$PATH" PYTHONPATH="$(CURDIR)" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
STAGE  ?=
DEVICE ?= cpu
# spinning threads cost a factor of four when anything else runs
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: repro test smoke lab bench export map setup clean
.DEFAULT_GOAL := repro

setup: $(VENV)/.ready
$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,captions,peers,search,onnx,open_clip,siglip,test]'
	@touch $@

repro: setup            ## rebuild every table and figure that the present params.yaml asks for
	$(RUN) dvc repro $(STAGE)

test: setup             ## run the chapters and the tests
	$(RUN) nbdev_test --n_workers 2
	$(RUN) pytest -q

smoke: setup            ## the whole pipeline, tiny, in a clean clone
	rm -rf build/smoke && git clone -q . build/smoke
	cd build/smoke && export $(RUN) PYTHONPATH="$(CURDIR)/build/smoke" && \
	  wavbrivl params --preset presets/smoke.yaml --write && dvc repro -q && dvc metrics show && \
	  dvc status -q && echo "smoke: the pipeline ran and is up to date"

bench: setup            ## speed against what one would use instead, side by side; DEVICE=cuda: on a GPU
	for b in wavlm image_tower stored_targets bulk retrieval alignment; do $(RUN) python benchmarks/$$b.py --device $(DEVICE) || exit 1; done
	$(RUN) python benchmarks/table.py

lab: setup              ## open the notebooks
	$(RUN) jupyter lab nbs

export: setup           ## notebooks -> library, and clean
	$(RUN) nbdev_export && $(RUN) nbdev_clean

map: setup              ## the map of chapters, the links between them, the drawing of the wings; prints the measures
	$(RUN) python tests/house.py --write

clean:                  ## forget results, keep the environment
	rm -rf build checkpoints models

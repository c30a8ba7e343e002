# Targets for people and for CI; `make help` lists them.
BIN      := bin
TOOLS    := $(CURDIR)/$(BIN)/tools
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO       ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@latest

.DEFAULT_GOAL := help
.PHONY: help build demo run test lint e2e e2e-slow image conformance tools parity bench fuzz hostile clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/sluice: one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w -X main.version=$(VERSION)" -o $(BIN)/sluice ./cmd/sluice

demo: build ## the whole story offline: registry, pull token, images, one allowed, others blocked
	$(BIN)/sluice demo $(ARGS)

run: build ## run a gateway in front of cgr.dev on 127.0.0.1:8080
	$(BIN)/sluice serve $(ARGS)

test: ## all tests that need only Go, with the race detector
	$(GO) test -race -gcflags='modernc.org/...=-race=0' -gcflags='github.com/google/licensecheck/...=-race=0' -timeout 15m ./... # not raced, for they would take half the time: SQLite (C made into Go) and a matcher of licences

lint: ## gofmt, go vet, staticcheck; govulncheck where its database can be reached
	@out="$$(gofmt -l .)"; [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(GO) vet -tags e2e ./deploy/...
	@[ -x $(TOOLS)/staticcheck ] || GOBIN=$(TOOLS) CGO_ENABLED=0 $(GO) install $(STATICCHECK)
	CGO_ENABLED=0 $(TOOLS)/staticcheck -tags e2e ./...
	@[ -x $(TOOLS)/govulncheck ] || GOBIN=$(TOOLS) CGO_ENABLED=0 $(GO) install $(GOVULNCHECK)
	@CGO_ENABLED=0 $(TOOLS)/govulncheck ./cmd/... >$(BIN)/govulncheck.txt 2>&1; s=$$?; \
	if grep -q 'fetching vulnerabilities\|no such host\|connection refused\|Forbidden' $(BIN)/govulncheck.txt; \
	then echo "govulncheck: its database can't be reached from here"; \
	else cat $(BIN)/govulncheck.txt; exit $$s; fi

e2e: build ## install and drive the real clients and servers, and the conformance suite (Debian, root)
	deploy/e2e/install.sh
	SLUICE_SOAK=10m SLUICE_BIN=$(CURDIR)/$(BIN)/sluice PATH="$(TOOLS):$$PATH" CGO_ENABLED=0 \
	$(GO) test -tags e2e -count=1 -timeout 40m -parallel 4 -v ./deploy/e2e
	PATH="$(TOOLS):$$PATH" CGO_ENABLED=0 $(GO) test -count=1 ./cache/redis ./cache/objects
	PATH="$(TOOLS):$$PATH" CGO_ENABLED=0 $(GO) test -count=1 -run Redis ./proxy
	$(MAKE) conformance
	$(MAKE) parity ARGS=-quick

e2e-slow: ## the same, with what takes twenty minutes to build: containerd 2.4, cosign
	deploy/e2e/install.sh slow
	$(MAKE) e2e

image: build ## build the container image sluice:dev with docker
	deploy/image.sh

conformance: ## the distribution specification's own suite, on the test registry and through the gateway
	deploy/e2e/install.sh conformance
	PATH="$(TOOLS):$$PATH" CGO_ENABLED=0 $(GO) test -count=1 -run Conformance -v ./proxy/proxytest ./proxy

tools: ## build the syft and grype commands, of the versions in go.mod, into bin/tools
	@for t in syft grype; do v=$$($(GO) list -m -f '{{.Version}}' github.com/anchore/$$t) && \
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w -X main.version=$${v#v}" -o $(TOOLS)/$$t github.com/anchore/$$t/cmd/$$t || exit 1; done

parity: build tools ## compare SBOMs and findings with the syft and grype commands, on real images (all of them: Debian, root)
	CGO_ENABLED=0 $(GO) run ./deploy/parity -sluice $(BIN)/sluice $(ARGS)
	CGO_ENABLED=0 $(GO) test -count=1 -run 'Golden|Recall' ./scan/vuln

bench: build tools ## measure, and write the table into README.md
	$(GO) run ./deploy/bench -sluice $(BIN)/sluice -readme README.md $(ARGS)

fuzz: ## a minute for each parser of strangers' bytes; PACKAGES="./scan/layer" for some of them
	@mkdir -p $(BIN); for p in $(or $(PACKAGES),$$(grep -rl '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u)); do \
	for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -c6-); do \
	$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzzminimizetime 1x -fuzztime $(or $(FUZZTIME),60s) $$p >$(BIN)/fuzz.txt 2>&1 || { \
	cat $(BIN)/fuzz.txt; grep -q 'context deadline exceeded' $(BIN)/fuzz.txt && ! grep -q 'Failing input' $(BIN)/fuzz.txt; } || exit 1; \
	tail -n 1 $(BIN)/fuzz.txt; done; done # a deadline alone is a fuzzer whose time ended in mid-step

hostile: ## images that mean harm through the whole pipeline, and a minute of fuzzing for each part of the stream guard
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 20m -run Hostile -v ./cmd/sluice
	CGO_ENABLED=0 $(MAKE) fuzz PACKAGES="./scan/layer ./scan/sbom"

clean: ## remove what make wrote
	rm -rf $(BIN)

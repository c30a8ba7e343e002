# Targets for people and for CI; `make help` lists them.
BIN      := bin
TOOLS    := $(CURDIR)/$(BIN)/tools
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO       ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@latest

.DEFAULT_GOAL := help
.PHONY: help build demo run test lint e2e e2e-slow image conformance parity bench fuzz clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/sluice: one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w -X main.version=$(VERSION)" -o $(BIN)/sluice ./cmd/sluice

demo: build ## the whole story offline: registry, pull token, images, one allowed, others blocked
	$(BIN)/sluice demo $(ARGS)

run: build ## run a gateway in front of cgr.dev on 127.0.0.1:8080
	$(BIN)/sluice serve $(ARGS)

test: ## all tests that need only Go, with the race detector
	$(GO) test -race -timeout 15m ./...

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
	SLUICE_BIN=$(CURDIR)/$(BIN)/sluice PATH="$(TOOLS):$$PATH" CGO_ENABLED=0 \
	$(GO) test -tags e2e -count=1 -timeout 40m -parallel 4 -v ./deploy/e2e
	$(MAKE) conformance

e2e-slow: ## the same, with what takes twenty minutes to build: containerd 2.4, cosign
	deploy/e2e/install.sh slow
	$(MAKE) e2e

image: build ## build the container image sluice:dev with docker
	deploy/image.sh

conformance: ## the distribution specification's own suite, on the test registry and through the gateway
	deploy/e2e/install.sh conformance
	PATH="$(TOOLS):$$PATH" CGO_ENABLED=0 $(GO) test -count=1 -run Conformance -v ./proxy/proxytest ./proxy

parity: ## our findings against the golden lists and the grype library's own path
	$(GO) test -count=1 -run 'Golden|Parity|Recall' -v ./scan/sbom ./scan/vuln

bench: build ## measure, and write the table into README.md
	$(GO) run ./deploy/bench -sluice $(BIN)/sluice -readme README.md $(ARGS)

fuzz: ## a minute for each parser of strangers' bytes
	@for p in $$(grep -rl '^func Fuzz' --include=*_test.go . | xargs -n1 dirname | sort -u); do \
	for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -c6-); do \
	$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzzminimizetime 1x -fuzztime $(or $(FUZZTIME),60s) $$p || exit 1; done; done

clean: ## remove what make wrote
	rm -rf $(BIN)

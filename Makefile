# SPDX-License-Identifier: Apache-2.0
# Fairlead: `make` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

GO            ?= go
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# What `fairlead kubectl version` tells of itself; without it kubectl fails to parse its own version. Kubernetes' builds set the same variables.
KUBERNETES_VERSION := $(shell sed -n 's/^const KubernetesVersion = "\(.*\)"/\1/p' controlplane/apiserver/version.go)
KUBERNETES_STAMP   := k8s.io/component-base/version
LDFLAGS       := -s -w -X main.version=$(VERSION) -X $(KUBERNETES_STAMP).gitVersion=$(KUBERNETES_VERSION)+fairlead \
	-X $(KUBERNETES_STAMP).gitMajor=1 -X $(KUBERNETES_STAMP).gitMinor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION)))
GOLANGCI      := bin/tools/golangci-lint
GOLANGCI_VERSION := v2.15.0
RUNC_VERSION  := $(shell sed -n 's/^const Version = "\(.*\)"/\1/p' hack/runc/runc.go)
SANDBOX       ?= dev
NODES         ?= 3
UP_FLAGS      ?= --dual

# What building and running need, as Debian package names.
DEPS_BUILD := clang-19 llvm-19 libbpf-dev linux-libc-dev
DEPS_RUN   := runc util-linux ca-certificates
DEPS_RUNC  := gcc libc6-dev libseccomp-dev pkg-config
DEPS_TEST  := iproute2 iptables nftables iperf3 containernetworking-plugins busybox-static containerd dbus-daemon musl-dev $(DEPS_RUNC)
DEPS_VM    := qemu-system-x86 kmod

export CGO_ENABLED := 0

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sort | awk -F ':.*?## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## Install every Debian package that building, running and testing need
	@$(call install,$(DEPS_BUILD) $(DEPS_RUN) $(DEPS_TEST) $(DEPS_MORE))

.PHONY: deps-run
deps-run: ## Install the Debian packages that a cluster needs, and no more
	@$(call install,$(DEPS_RUN))

define install
	missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "root is needed to install:" $$missing >&2; exit 1; fi; \
	echo "installing:" $$missing; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef

.PHONY: build
build: bin/fairlead bin/fairlead-shim bin/fairlead-dns bin/fairlead-cni bin/flctl ## Build the executables into bin/

.PHONY: bin/fairlead bin/fairlead-shim bin/fairlead-dns bin/fairlead-cni bin/flctl
bin/fairlead bin/fairlead-shim bin/fairlead-dns bin/fairlead-cni bin/flctl:
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

.PHONY: runc
runc: ## Build a runc for pods with `hostUsers: false` into bin/, where the system's is older than 1.2; nodes prefer it
	@$(call install,$(DEPS_RUNC))
	CGO_ENABLED=1 GOBIN=$(CURDIR)/bin $(GO) install -trimpath -tags seccomp github.com/opencontainers/runc@$(RUNC_VERSION)

.PHONY: generate
generate: ## Regenerate what is generated (eBPF objects and bindings, OpenAPI)
	$(GO) generate ./bpf/... ./dataplane/... ./hack/bench/xdp ./controlplane/...

.PHONY: images
images: ## Build the sample's container image into out/images
	@mkdir -p out/images out/sample
	$(GO) build -ldflags '-s -w' -o out/sample/sample ./hack/sample
	$(GO) run ./hack/images program -name fairlead.io/sample:latest -entrypoint /sample -o out/images/sample.tar out/sample/sample=/sample

.PHONY: up
up: ## Start a three-node cluster on this machine, deploy the sample and send it requests
	@for stage in deps-run build images; do \
		begin=$$SECONDS; $(MAKE) -s --no-print-directory $$stage || exit; printf '%7ds  (+%4ds)  make %s\n' $$SECONDS $$((SECONDS - begin)) $$stage; \
	done
	bin/fairlead sandbox --name $(SANDBOX) up --nodes $(NODES) $(UP_FLAGS) --image out/images/sample.tar
	bin/fairlead sandbox --name $(SANDBOX) sample

.PHONY: down
down: ## End the cluster of `make up` and remove everything it made
	bin/fairlead sandbox --name $(SANDBOX) down

.PHONY: lint
lint: $(GOLANGCI) ## Run gofmt, go vet and golangci-lint
	@unformatted=$$(git ls-files '*.go' | grep -v -E '_bpfe[lb]\.go$$' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:" $$unformatted; exit 1; fi
	$(GOLANGCI) run --timeout 20m ./...

$(GOLANGCI):
	GOBIN=$(CURDIR)/bin/tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

.PHONY: test
test: deps ## Run everything that CI runs
	hack/ci/test.sh

.PHONY: test-unit
test-unit: ## Run the tests that need neither root nor a cluster
	$(GO) test -short ./...

.PHONY: test-vm
test-vm: DEPS_MORE := $(DEPS_VM)
test-vm: deps build images ## Boot Debian's kernels under qemu: the programs on their verifiers, a node with cgroup version 2 only
	$(GO) test -tags vm -count=1 -timeout 90m -v ./hack/vm

.PHONY: test-behaviours
test-behaviours: deps build images ## Try on a sandbox what Kubernetes describes of workloads, network, nodes and storage (docs/conformance-cluster.md)
	FAIRLEAD_E2E_BEHAVIOURS=1 $(GO) test -tags e2e -count=1 -timeout 30m -run Behaviours -v ./hack/e2e

.PHONY: fuzz
fuzz: ## Run every fuzz target for ten seconds
	hack/ci/fuzz.sh 10s

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin out

# Benchmarks print what they measured beside what a user would pick instead, and write out/bench/NAME.json. BENCH_FLAGS are passed on.

.PHONY: bench-api
bench-api: ## Measure the control plane: start, memory, writes, lists, watches
	$(GO) run ./hack/bench/api $(BENCH_FLAGS)

.PHONY: bench-controllers
bench-controllers: ## Measure the controllers: 10,000 pods of Deployments on 1,000 simulated nodes rolled out, updated, rolled back, drained
	$(GO) run ./hack/bench/controllers $(BENCH_FLAGS)

.PHONY: bench-scheduler
bench-scheduler: ## Measure the scheduler: decisions alone, then with an API server in the same process
	$(GO) run ./hack/bench/scheduler $(BENCH_FLAGS)

.PHONY: bench-lb
bench-lb: ## Measure the service load balancer beside no service, iptables and nftables
	$(GO) run ./hack/bench/lb $(BENCH_FLAGS)

.PHONY: bench-xdp
bench-xdp: ## Measure the XDP program: ns per packet beside a program that parses and does one lookup
	$(GO) run ./hack/bench/xdp $(BENCH_FLAGS)

.PHONY: bench-podnet
bench-podnet: bin/fairlead-cni ## Measure the pod network beside Debian's bridge plugin and bare veth
	$(GO) run ./hack/bench/podnet -plugin bin/fairlead-cni $(BENCH_FLAGS)

.PHONY: bench-pods
bench-pods: ## Measure pods on one real node: create to Running, a hundred at once, memory
	$(GO) test -count=1 -timeout 15m -run TestPods ./hack/bench/pods -v -args -full -out $(CURDIR)/out/bench

.PHONY: bench-dns
bench-dns: ## Measure the DNS server beside CoreDNS with its kubernetes plugin
	$(GO) run ./hack/bench/dns $(BENCH_FLAGS)

.PHONY: bench-up
bench-up: build images ## Measure how long a user waits for a cluster
	$(GO) run ./hack/bench/up $(BENCH_FLAGS)

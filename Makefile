# rootfs: build, check, show. `make demo` and `make test` install what they
# need on Debian and Ubuntu (as root or with sudo).
GO        ?= go
GOBIN     := $(shell $(GO) env GOPATH)/bin
GOLANGCI  := $(GOBIN)/golangci-lint
# Newest release at the time; 2.x reads .golangci.yml the same way.
GOLANGCI_VERSION := v2.15.0
FUZZTIME  ?= 30s
COUNT     ?= 10

TEST_TOOLS := bsdtar cpio debootstrap e2fsck fsck.fat fusermount3 gcc getfacl getfattr \
              git make mcopy mkfs.vfat mkfs.xfs musl-gcc partx patch podman python3 rsync setcap sfdisk sgdisk skopeo \
              tar umoci vim.tiny

.PHONY: build test race lint fuzz judge crash bench bench-export bench-mount demo boot-matrix clean

# One file that runs on any Linux. The tag leaves out a generator of manuals
# that the command line's library brings along.
build:
	CGO_ENABLED=0 $(GO) build -tags urfave_cli_no_docs -o bin/rootfs ./cmd/rootfs

test: build
	testdata/demo/setup.sh $(TEST_TOOLS)
	$(GO) test -timeout 40m ./...

race:
	testdata/demo/setup.sh $(TEST_TOOLS)
	$(GO) test -timeout 90m -race ./...

lint: $(GOLANGCI)
	$(GOLANGCI) run ./...

$(GOLANGCI):
	$(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

# Every fuzz target, one after the other, for FUZZTIME each.
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "== $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$package || exit 1; \
		done; \
	done

# Pipe two runs through benchstat to compare.
bench:
	$(GO) test -run '^$$' -bench . -benchmem -count $(COUNT) ./...

# Random operations on a mount and on the kernel's overlayfs, side by side.
SEQUENCES ?= 10000
judge:
	ROOTFS_JUDGE_SEQUENCES=$(SEQUENCES) $(GO) test -count 1 -timeout 90m -run TestLikeTheKernelsOverlay ./cmd/rootfs

# Kills the daemon CRASHES times and cuts the power POWER_CUTS times, each under
# writers that sync; kills gc CRASHES times; and makes each host call of each
# edit fail. As root.
CRASHES ?= 1000
POWER_CUTS ?= 300
crash:
	ROOTFS_CRASHES=$(CRASHES) ROOTFS_POWER_CUTS=$(POWER_CUTS) ROOTFS_FAULTS=all $(GO) test -count 1 -timeout 90m -run 'TestKilled|TestPowerCut|TestFailingHostCalls' ./cmd/rootfs -v

# Images: this program, mkfs.ext4 -d and a loop mount, in turn. As root, on a
# quiet machine; the trees stay in BENCH_DIR.
BENCH_DIR ?= $(CURDIR)/bin/bench
bench-export:
	testdata/demo/setup.sh debootstrap mkfs.ext4 python3 xz
	testdata/bench/tree.sh $(BENCH_DIR)
	ROOTFS_BENCH_DIR=$(BENCH_DIR) $(GO) test -count 1 -timeout 90m -tags bench -run 'TestBench(Export|Linear)' ./cmd/rootfs -v

# Mounts: this program, the plain tree, the kernel's overlayfs, fuse-overlayfs
# and unionfs-fuse, in turn. As root, on a quiet machine. ROOTFS_BENCH_WORK and
# ROOTFS_BENCH_AMONG choose some (regular expressions). In a mount namespace of
# its own: a mount that another process's namespace has copied doesn't end.
bench-mount: build
	testdata/demo/setup.sh debootstrap fuse-overlayfs fusermount3 gcc git make unionfs xz
	testdata/bench/tree.sh $(BENCH_DIR)
	ROOTFS_BENCH_DIR=$(BENCH_DIR) unshare -m $(GO) test -count 1 -timeout 90m -tags bench -run TestBenchMount ./cmd/rootfs -v

demo: build
	testdata/demo/demo.sh

# The sample project, booted from each form of disk image.
boot-matrix: build
	testdata/demo/matrix.sh

clean:
	rm -rf bin

# The front door. Everything a person or CI does has a word here.
#
#   make lib             build the library with all its backends into target/fast
#   make run             build the library and run the first example on the embedded broker
#   make test            everything, installing what it needs first where it may
#   make test-embedded   what needs only Rust and a C compiler; installs nothing
#   make test-infra-start, make test-infra-stop   the servers that tests talk to
#   make torture         long runs of the same: more seeds, more rounds, an hour of faults on real servers
#   make torture-quick   the torture checker, a minute of each kind; make torture-mutants: hubs with defects, which it must find
#   make bench           side by side with other queues and clients; writes docs/performance.md
#   make lint            formatting, clippy, licences
#   make headers         include/helixmq.h, symbols, schemas and tables from the code
#   make release         optimised libhelixmq.so and a localised libhelixmq.a
#   make install         the release under PREFIX (default /usr/local)

CC      ?= cc
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
TARGET  ?= target
LIB      = $(TARGET)/fast
RELEASE  = $(TARGET)/release
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
ABI     := $(shell sed -n 's/^const ABI: u32 = \([0-9]*\);/\1/p' build.rs)
FILES   ?= README.md $(wildcard src/*.rs)

# What needs no server: the embedded broker alone.
EMBEDDED = --no-default-features

.PHONY: run lib test test-embedded test-rust test-rabbitmq4 test-kafka3 test-server-examples test-rust-embedded test-c test-sanitizers test-languages test-examples test-release \
        torture torture-long torture-quick torture-mutants bench bench-quick bench-servers-quick lint audit headers release install test-infra-start test-infra-stop clean

lib:
	cargo build --locked --profile fast --lib --target-dir $(TARGET)

run:
	cargo build --locked $(EMBEDDED) --profile fast --lib --target-dir $(TARGET)
	@$(MAKE) --no-print-directory -s -C examples-c LIB=$(abspath $(LIB)) OUT=$(abspath build/examples)
	@echo
	@./build/examples/01_worker_pool $(FILES)

test: setup lint test-infra-start test-rust torture-quick test-rabbitmq4 test-kafka3 test-server-examples test-embedded test-sanitizers test-languages test-release bench-quick bench-servers-quick
	@echo "make test: all parts passed"

setup:
	tools/setup.sh

test-embedded: test-rust-embedded test-c test-examples

# The server tests stop the server under each other, so nothing else of theirs runs meanwhile.
test-rust:
	cargo test --locked --target-dir $(TARGET) -- --test-threads 4

# The conformance suite once more, on a server of the 4.x line where it can be had.
test-rabbitmq4:
	@tools/rabbitmq4.sh start || [ $$? = 3 ]
	@if tools/rabbitmq4.sh ctl status >/dev/null 2>&1; then \
	    HMQ_RABBITMQ_PORT=$${HMQ_RABBITMQ4_PORT:-5681} \
	        cargo test --locked --target-dir $(TARGET) --test conformance rabbitmq -- --test-threads 4; \
	fi

# And on a Kafka of the 3.x line.
test-kafka3:
	@tools/kafka3.sh start
	HMQ_KAFKA_PORT=9402 cargo test --locked --target-dir $(TARGET) --test conformance kafka -- --test-threads 4
	@tools/kafka3.sh stop

test-rust-embedded:
	cargo test --locked $(EMBEDDED) --target-dir $(TARGET)

test-c:
	tools/check-header.sh
	HMQ_TEST_TARGET=$(TARGET)/test tests/c/run.sh plain

test-examples: lib
	tests/examples.sh $(LIB)

test-server-examples: lib
	tests/examples-servers.sh $(LIB)

test-sanitizers:
	HMQ_TEST_TARGET=$(TARGET)/test tests/c/run.sh asan
	HMQ_TEST_TARGET=$(TARGET)/test tests/c/run.sh valgrind
	HMQ_TEST_TARGET=$(TARGET)/test tests/c/run.sh drd

test-languages: lib
	tests/ffi/run.sh $(LIB)

test-release: release
	tools/check-symbols.sh $(RELEASE)/libhelixmq.so
	tools/check-release.sh $(RELEASE)

torture:
	PROPTEST_CASES=20000 HMQ_TEST_SCALE=20000 cargo test --locked --profile fast --target-dir $(TARGET)
	HMQ_TEST_SCALE=2000 HMQ_TEST_TARGET=$(TARGET)/test tests/c/run.sh plain
	@$(MAKE) --no-print-directory torture-long torture-mutants

# docs/reliability.md tells what these do. Another minute or seed: make torture-long TORTURE_MINUTES=480 TORTURE="--seed 7"
TORTURE_MINUTES       ?= 10
TORTURE_QUICK_MINUTES ?= 1
TORTURE_RUN = run() { cargo test --locked $(1) --target-dir $(TARGET) --test torture -- \
    --pairing $$1 --spool $$2 --minutes $(2) $(TORTURE); }

torture-long: test-infra-start
	@$(call TORTURE_RUN,--profile fast,$(TORTURE_MINUTES)); \
	for pairing in rabbitmq kafka both; do for spool in memory disk; do run $$pairing $$spool || exit 1; done; done

# Those with one server each run side by side, debug builds all of them: what is a matter of time has twice as much.
torture-quick: test-infra-start
	@$(call TORTURE_RUN,,$(TORTURE_QUICK_MINUTES) --slack 2); \
	for spool in memory disk; do \
	    run rabbitmq $$spool & run kafka $$spool && wait $$! && run both $$spool || { wait; exit 1; }; \
	done

torture-mutants: test-infra-start
	@cargo test --locked --target-dir $(TARGET) --test torture -- --mutant all --minutes 0.2

bench: release
	benches/run.sh $(abspath $(RELEASE)) docs/performance.md
	benches/servers.sh $(abspath $(RELEASE)) docs/performance.md

bench-quick: release
	benches/run.sh $(abspath $(RELEASE)) --quick

bench-servers-quick: release
	benches/servers.sh $(abspath $(RELEASE)) --quick

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets --target-dir $(TARGET) -- -D warnings
	cargo clippy --locked --all-targets $(EMBEDDED) --target-dir $(TARGET) -- -D warnings

# Needs the network for the list of advisories, so it is not part of `make test`.
audit:
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
	cargo deny check

headers:
	HMQ_BLESS=1 cargo test --locked --target-dir $(TARGET) --test header
	HMQ_BLESS=1 cargo test --locked --target-dir $(TARGET) --lib schema
	HMQ_BLESS=1 cargo test --locked --target-dir $(TARGET) --lib metrics
	HMQ_BLESS=1 cargo test --locked --target-dir $(TARGET) --lib status_table

release:
	TARGET=$(TARGET) tools/release.sh

install: release
	tools/install.sh $(RELEASE) "$(DESTDIR)" $(PREFIX) $(LIBDIR) $(VERSION) $(ABI)

# RabbitMQ from the distribution's package and Kafka by Java and Maven, or by docker compose.
test-infra-start:
	@tools/rabbitmq.sh start
	@tools/kafka.sh start

test-infra-stop:
	@tools/rabbitmq.sh stop
	@tools/rabbitmq4.sh stop
	@tools/kafka.sh stop
	@tools/kafka3.sh stop
	@tools/kafka-cluster.sh stop

clean:
	rm -rf $(TARGET) build

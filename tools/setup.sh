#!/usr/bin/env bash
# Makes sure that what `make test` needs is there. Installs it where it may (root, Debian's
# package manager), saying what; elsewhere says what to install, and stops.
set -eu
cd "$(dirname "$0")/.."

missing=()
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

need cc gcc
need g++ g++
need clang clang
need valgrind valgrind
need python3 python3
need go golang-go
need pkg-config pkg-config
need openssl openssl
pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
need nm binutils
tools/rabbitmq.sh installed || missing+=(rabbitmq-server)
if ! tools/kafka.sh installed; then
    need java openjdk-17-jre-headless
    need mvn maven
fi
pkg-config --exists zlib 2>/dev/null || missing+=(zlib1g-dev)
pkg-config --exists libzmq 2>/dev/null || missing+=(libzmq3-dev)
pkg-config --exists librabbitmq 2>/dev/null || missing+=(librabbitmq-dev)
if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: Rust is missing; install it with rustup (1.88 or later), then try again" >&2
    exit 1
fi

if [ "${#missing[@]}" -eq 0 ]; then
    echo "setup: everything is there"
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    exit 0
fi
echo "setup: please install: ${missing[*]}" >&2
exit 1

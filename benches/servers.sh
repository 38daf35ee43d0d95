#!/bin/sh
# Compares the shared library of a release with other clients of a RabbitMQ server.
#
#   benches/servers.sh [FOLDER] [TABLE.md] [--quick] [--only R1,R6]
#   benches/servers.sh [FOLDER] --solo SIDE MODE SECONDS    one side alone, see rivals/src/servers/main.rs
#
# FOLDER holds libhelixmq.so; without it the library is built here by the release recipe. TABLE.md
# gets the table between its marks, or is made. Needs librabbitmq (Debian: librabbitmq-dev) and what
# tools/rabbitmq.sh starts a server with. amqp091-go is a peer where Go is there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
. "$here/library.sh"

ctl() {
    "$root/tools/rabbitmq.sh" ctl "$@"
}

# Its last word is the server's version; there is none where it runs in a container.
version=$("$root/tools/rabbitmq.sh" start | tail -1 | sed 's/.* //')
set -- --port "${HMQ_RABBITMQ_PORT:-5679}" ${version:+--server "$version"} "$@"

# A virtual host of its own, so that what others left on the server is not in the way.
ctl delete_vhost hmq-bench >/dev/null 2>&1 || true
ctl add_vhost hmq-bench
ctl set_permissions -p hmq-bench guest ".*" ".*" ".*"

rounds=$target/rivals-go/amqp091-rounds
mkdir -p "$target/rivals-go"
if ! command -v go >/dev/null 2>&1; then
    echo "benches/servers.sh: no Go here, so amqp091-go is left out" >&2
elif (cd "$here/go" && go build -o "$rounds" .); then
    set -- --go "$rounds" "$@"
else
    echo "benches/servers.sh: its Go modules cannot be had, so amqp091-go is left out" >&2
fi

HELIXMQ_LIB_DIR=$libraries cargo build --quiet --locked --release --features servers --bin helixmq-servers \
    --manifest-path "$here/rivals/Cargo.toml" --target-dir "$target/rivals"
status=0
"$target/rivals/release/helixmq-servers" "$@" || status=$?
ctl delete_vhost hmq-bench >/dev/null
exit $status

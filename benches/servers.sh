#!/bin/sh
# Compares the shared library of a release with other clients of a RabbitMQ server (rows R…) and of a
# Kafka server (rows K…), and measures what it does while one is away (rows F…, which kill both).
#
#   benches/servers.sh [FOLDER] [TABLE.md] [--quick] [--only R1,K3]
#   benches/servers.sh [FOLDER] --solo SIDE MODE SECONDS    one side alone, see rivals/src/servers/main.rs
#
# FOLDER holds libhelixmq.so; without it the library is built here by the release recipe. TABLE.md
# gets the tables between their marks, or is made. Needs librabbitmq (Debian: librabbitmq-dev), make, and
# what tools/rabbitmq.sh and tools/kafka.sh start the servers with, of which only those are started that
# the rows need. amqp091-go is a peer where Go is there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=${CARGO_TARGET_DIR:-$root/target}
. "$here/library.sh"

rabbitmq=yes
kafka=yes
before=
for word in "$@"; do
    case $before:,$word in
    --only:*,K*,R* | --only:*,R*,K* | --only:*,F*) ;;
    --only:*,R* | --solo:*) kafka= ;;
    --only:*,K*) rabbitmq= ;;
    esac
    case $before:$word in
    --solo:ours-kafka) rabbitmq='' kafka=yes ;;
    esac
    before=$word
done

ctl() {
    "$root/tools/rabbitmq.sh" ctl "$@"
}

if [ "$rabbitmq" ]; then
    # Its last word is the server's version; there is none where it runs in a container.
    started=$("$root/tools/rabbitmq.sh" start)
    version=$(echo "$started" | tail -1 | sed 's/.* //')
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
fi

if [ "$kafka" ]; then
    # Topics and groups have names of their own, and go with the program.
    started=$("$root/tools/kafka.sh" start)
    version=$(echo "$started" | sed -n 's/^kafka on port [0-9]*: \([0-9.]*\).*/\1/p')
    set -- --kafka-port "${HMQ_KAFKA_PORT:-9392}" ${version:+--kafka-server "$version"} "$@"
fi

set -- --tools "$root/tools" "$@"

HELIXMQ_LIB_DIR=$libraries cargo build --quiet --locked --release --features servers --bin helixmq-servers \
    --manifest-path "$here/rivals/Cargo.toml" --target-dir "$target/rivals"
status=0
"$target/rivals/release/helixmq-servers" "$@" || status=$?
[ -z "$rabbitmq" ] || ctl delete_vhost hmq-bench >/dev/null
exit $status

#!/usr/bin/env bash
# Three Kafka servers that are one cluster, for tests in which a leader goes. They listen on
# 127.0.0.1, without TLS and SASL; everything has three copies, of which two must be in sync.
#
#   tools/kafka-cluster.sh start | stop | kill N | start-node N | pause N | resume N | tool CLASS ARGUMENTS…
#
#   HMQ_KAFKA_VERSION        default 4.1.0
#   HMQ_KAFKA_CLUSTER_PORT   the port of node 1 (default 9412); node 2 has ten more, node 3 twenty
set -eu
cd "$(dirname "$0")/.."
first=${HMQ_KAFKA_CLUSTER_PORT:-9412}
infra=$PWD/target/infra
version=${HMQ_KAFKA_VERSION:-4.1.0}

node() { # node N ARGUMENTS… of tools/kafka.sh
    HMQ_KAFKA_VERSION=$version HMQ_KAFKA_DIR=$infra/kafka-cluster-$version/$1 HMQ_KAFKA_PORT=$((first + 10 * ($1 - 1))) \
        HMQ_KAFKA_LIBS=$infra/kafka-$version/libs HMQ_KAFKA_HEAP=400m HMQ_KAFKA_NODE=$1 \
        HMQ_KAFKA_VOTERS=1@127.0.0.1:$((first + 4)),2@127.0.0.1:$((first + 14)),3@127.0.0.1:$((first + 24)) \
        tools/kafka.sh "${@:2}"
}

all() { # None is ready before two are there, so all at once.
    local jobs=() n job bad=0
    for n in 1 2 3; do
        node "$n" "$@" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do
        wait "$job" || bad=1
    done
    return $bad
}

case ${1:-}:${2:-} in
start:)
    HMQ_KAFKA_VERSION=$version HMQ_KAFKA_DIR=$infra/kafka-$version tools/kafka.sh jars
    all start
    ;;
stop:) all stop ;;
start-node:[123]) node "$2" start ;;
kill:[123] | pause:[123] | resume:[123]) node "$2" "$1" ;;
tool:?*) node 1 "$@" --bootstrap-server "127.0.0.1:$first,127.0.0.1:$((first + 10)),127.0.0.1:$((first + 20))" ;;
*)
    sed -n '2,8p' "$0"
    exit 2
    ;;
esac

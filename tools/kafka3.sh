#!/usr/bin/env bash
# A Kafka server of the 3.x line beside the other one: what tools/kafka.sh says, with port 9402.
set -eu
export HMQ_KAFKA_VERSION=3.9.1
export HMQ_KAFKA_PORT=${HMQ_KAFKA3_PORT:-9402}
unset HMQ_KAFKA_DIR
exec "$(dirname "$0")/kafka.sh" "$@"

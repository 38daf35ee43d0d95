#!/bin/sh
# Runs the producer and the worker of examples-c as two processes, and kills the server under them.
#
#   tests/examples-servers.sh <directory of libhelixmq.so>
set -eu

lib=$(cd "${1:?usage: $0 <directory of libhelixmq.so>}" && pwd)
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"; kill $worker $producer 2>/dev/null || true' EXIT
worker= producer=
port=${HMQ_RABBITMQ_PORT:-5679}
count=40

make --no-print-directory -s -C examples-c LIB="$lib" OUT="$out"
tools/rabbitmq.sh start >/dev/null
tools/rabbitmq.sh ctl delete_queue tasks.jobs >/dev/null 2>&1 || true

timeout 150 "$out/06_server_worker" "$port" $count >"$out/worker" 2>&1 &
worker=$!
timeout 150 "$out/05_server_producer" "$port" $count >"$out/producer" 2>&1 &
producer=$!
while [ "$(grep -c 'is done' "$out/worker" || true)" -lt 10 ]; do kill -0 $worker; done
tools/rabbitmq.sh kill
while ! grep -q 'waits' "$out/producer"; do kill -0 $producer; done
tools/rabbitmq.sh start >/dev/null

failed=0
wait $producer || { echo "FAIL: the producer"; cat "$out/producer"; failed=1; }
wait $worker || { echo "FAIL: the worker"; cat "$out/worker"; failed=1; }
sort -V "$out/worker" | grep 'is done' >"$out/done"
seq -f 'job-%g is done' 1 $count | diff - "$out/done" || failed=1
[ "$(grep -c 'confirmed by the server' "$out/producer")" = $count ] || failed=1
[ $failed = 0 ] && echo "ok   05_server_producer and 06_server_worker, through a kill of the server: $(grep waits "$out/producer" | head -1)"
exit $failed

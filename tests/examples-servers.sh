#!/bin/sh
# Runs the producer and the worker of examples-c as two processes, and kills the server under them; then
# the program that uses both servers, by its environment alone.
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
# Looks until a program has got so far, or has ended before.
await() { kill -0 "$1" || { cat "$2"; exit 1; }; sleep 0.05; }
while [ "$(grep -c 'is done' "$out/worker" || true)" -lt 10 ]; do await $worker "$out/worker"; done
tools/rabbitmq.sh kill
while ! grep -q 'kept here' "$out/producer"; do await $producer "$out/producer"; done
tools/rabbitmq.sh start >/dev/null

failed=0
wait $producer || { echo "FAIL: the producer"; cat "$out/producer"; failed=1; }
wait $worker || { echo "FAIL: the worker"; cat "$out/worker"; failed=1; }
sort -V "$out/worker" | grep 'is done' >"$out/done"
seq -f 'job-%g is done' 1 $count | diff - "$out/done" || failed=1
[ "$(grep -c 'is confirmed by the server\|is kept here' "$out/producer")" = $count ] || failed=1
tail -5 "$out/producer" | grep -q 'all are at the server' || failed=1
for word in suspect forwarding; do grep -q "\"to\":\"$word\"" "$out/producer" || failed=1; done
[ $failed = 0 ] && echo "ok   05_server_producer and 06_server_worker, through a kill of the server: $(grep -c 'kept here' "$out/producer") tasks were kept"
[ $failed = 0 ] || cat "$out/producer"

kafka=${HMQ_KAFKA_PORT:-9392}
tools/kafka.sh start >/dev/null
# What an earlier run left of the last hour.
tools/kafka.sh tool TopicCommand --delete --if-exists --topic 'user\.(created|deleted)' >/dev/null
tools/rabbitmq.sh ctl delete_queue tasks.mail >/dev/null 2>&1 || true
if MESSAGING_ENABLED=true MESSAGING_FALLBACK_INMEMORY=true RABBITMQ_HOST=127.0.0.1 RABBITMQ_PORT=$port \
    RABBITMQ_USER=guest RABBITMQ_PASSWORD=guest RABBITMQ_VHOST=/ KAFKA_BROKERS=127.0.0.1:$kafka \
    KAFKA_CLIENT_ID=example KAFKA_GROUP_ID=example \
    timeout 100 "$out/07_server_tasks_and_events" >"$out/both" 2>"$out/both.err"; then
    # Workers run beside, and topics and partitions have no order among them.
    LC_ALL=C sort "$out/both" | diff -u examples-c/07_server_tasks_and_events.expected - || failed=1
else
    echo "FAIL: 07_server_tasks_and_events"
    cat "$out/both" "$out/both.err"
    failed=1
fi
[ $failed = 0 ] && echo "ok   07_server_tasks_and_events"
exit $failed

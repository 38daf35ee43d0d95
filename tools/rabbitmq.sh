#!/usr/bin/env bash
# A RabbitMQ server of the tests' own, beside any other one: from the distribution's package, or
# where there is none by docker compose.
#
#   tools/rabbitmq.sh start | stop | kill | pause | resume | ctl ARGUMENTS… | installed
#
#   HMQ_RABBITMQ_DIR    where it keeps everything (default target/infra/rabbitmq)
#   HMQ_RABBITMQ_PORT   its port, on 127.0.0.1 only (default 5679); the next one is for TLS, and
#                       20000 more for its own protocol
set -eu
cd "$(dirname "$0")/.."
dir=${HMQ_RABBITMQ_DIR:-$PWD/target/infra/rabbitmq}
port=${HMQ_RABBITMQ_PORT:-5679}
bin=/usr/lib/rabbitmq/bin

export HOME=$dir ERL_CRASH_DUMP=$dir/erl_crash.dump
export RABBITMQ_NODENAME="hmq$port@localhost" RABBITMQ_NODE_PORT=$port RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
export RABBITMQ_DIST_PORT=$((port + 20000)) ERL_EPMD_PORT=$((port + 10000)) ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_MNESIA_BASE=$dir/data RABBITMQ_LOG_BASE=$dir/log RABBITMQ_PID_FILE=$dir/pid
export RABBITMQ_CONFIG_FILE=$dir/rabbitmq RABBITMQ_CONF_ENV_FILE=$dir/none RABBITMQ_ENABLED_PLUGINS_FILE=$dir/plugins
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"

if [ ! -x $bin/rabbitmq-server ] && docker compose version >/dev/null 2>&1; then
    compose() { HMQ_RABBITMQ_PORT=$port docker compose -f docker-compose.yml "$@"; }
    case ${1:-} in
    installed) exit 0 ;;
    start) compose up -d --wait rabbitmq ;;
    stop) compose stop rabbitmq ;;
    kill) compose kill rabbitmq ;;
    pause) compose pause rabbitmq ;;
    resume) compose unpause rabbitmq ;;
    ctl) shift && compose exec -T rabbitmq rabbitmqctl -q "$@" ;;
    *) sed -n '2,11p' "$0" && exit 2 ;;
    esac
    exit
fi

case ${1:-} in
installed)
    [ -x $bin/rabbitmq-server ]
    ;;
start)
    [ -x $bin/rabbitmq-server ] || { echo "tools/rabbitmq.sh: no RabbitMQ here; Debian: apt-get install rabbitmq-server" >&2; exit 1; }
    mkdir -p "$dir/data" "$dir/log"
    if ! $bin/rabbitmqctl -q status >/dev/null 2>&1; then
        # Disk alarms of a small machine are not what the tests are about.
        {
            printf 'disk_free_limit.absolute = 1MB\nlog.console = false\n'
            printf 'listeners.ssl.default = 127.0.0.1:%s\n' $((port + 1))
            printf 'ssl_options.cacertfile = %s/tls/ca.pem\n' "$dir"
            printf 'ssl_options.certfile = %s/tls/server.pem\nssl_options.keyfile = %s/tls/server.key\n' "$dir" "$dir"
            printf 'ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n'
            printf 'auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n'
            printf 'ssl_cert_login_from = common_name\n'
        } >"$dir/rabbitmq.conf"
        tools/certificates.sh "$dir/tls"
        echo '[rabbitmq_auth_mechanism_ssl].' >"$dir/plugins"
        setsid $bin/rabbitmq-server >"$dir/log/console" 2>&1 </dev/null &
        $bin/rabbitmqctl -q wait --timeout 60 --pid $! >/dev/null || { tail -20 "$dir/log/console" >&2; exit 1; }
        $bin/rabbitmqctl -q await_startup --timeout 60
    fi
    # Delays move messages safely between quorum queues, which 3.10 has as an option.
    $bin/rabbitmqctl -q enable_feature_flag all >/dev/null 2>&1 || true
    echo "rabbitmq on port $port: $($bin/rabbitmqctl -q version 2>/dev/null | tail -1)"
    ;;
stop)
    $bin/rabbitmqctl -q stop >/dev/null 2>&1 || true
    ;;
kill | pause | resume)
    case $1 in kill) signal=KILL ;; pause) signal=STOP ;; resume) signal=CONT ;; esac
    pid=$(cat "$dir/pid")
    kill -"$signal" "$pid"
    # A thread may run on for a moment, and answer what a test sends to a server that stands still.
    while [ "$1" = pause ] && cat "/proc/$pid"/task/*/status 2>/dev/null | grep -q '^State:[[:space:]]*[^T[:space:]]'; do
        sleep 0.01
    done
    ;;
ctl)
    shift
    exec $bin/rabbitmqctl -q "$@"
    ;;
*)
    sed -n '2,11p' "$0"
    exit 2
    ;;
esac

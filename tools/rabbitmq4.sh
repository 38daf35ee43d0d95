#!/usr/bin/env bash
# A RabbitMQ server of the 4.x line beside the other one, in a root of its own (Debian unstable).
#
#   tools/rabbitmq4.sh start | stop | ctl ARGUMENTS…
#
# Needs root and debootstrap; `start` answers 3 where it cannot be had, and says why.
#
#   HMQ_RABBITMQ4_PORT   its port, on 127.0.0.1 only (default 5681)
set -eu
cd "$(dirname "$0")/.."
root=$PWD/target/infra/rabbitmq4
port=${HMQ_RABBITMQ4_PORT:-5681}

cannot() {
    echo "no RabbitMQ 4.x here, its tests are skipped: $1"
    exit 3
}

# In a mount namespace of its own, which goes with its last process: were /dev bound where others see
# it, a "rm -rf target" would empty it for the whole machine.
inside() {
    unshare --mount --propagation private sh -c '
        root=$1
        shift
        mount --bind /proc "$root/proc" && mount --bind /dev "$root/dev" && exec chroot "$root" "$@"' sh \
        "$root" env -i PATH=/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        RABBITMQ_NODENAME="hmq$port@localhost" RABBITMQ_NODE_PORT="$port" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
        RABBITMQ_DIST_PORT=$((port + 20000)) ERL_EPMD_PORT=$((port + 10000)) ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_MNESIA_BASE=/hmq/data RABBITMQ_LOG_BASE=/hmq/log RABBITMQ_PID_FILE=/hmq/pid \
        RABBITMQ_CONFIG_FILE=/hmq/rabbitmq RABBITMQ_CONF_ENV_FILE=/hmq/none RABBITMQ_ENABLED_PLUGINS_FILE=/hmq/plugins \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}" \
        "$@"
}

case ${1:-} in
start)
    [ "$(id -u)" -eq 0 ] || cannot "it needs root"
    if [ ! -x "$root/usr/lib/rabbitmq/bin/rabbitmq-server" ]; then
        command -v debootstrap >/dev/null || apt-get install -y -qq debootstrap >/dev/null 2>&1 || cannot "debootstrap is missing"
        mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1)
        [ -n "$mirror" ] || mirror=$(awk '$1 == "deb" { print $2; exit }' /etc/apt/sources.list 2>/dev/null)
        mkdir -p "$root"
        debootstrap --variant=minbase --include=rabbitmq-server,adduser,hostname unstable "$root" "$mirror" \
            >"$root.log" 2>&1 || cannot "debootstrap failed, see $root.log"
    fi
    inside true 2>>"$root.log" || cannot "no root with its own /proc and /dev, see $root.log"
    cp /etc/hosts "$root/etc/hosts"
    mkdir -p "$root/hmq/data" "$root/hmq/log"
    printf 'disk_free_limit.absolute = 1MB\nlog.console = false\n' >"$root/hmq/rabbitmq.conf"
    echo '[].' >"$root/hmq/plugins"
    if ! inside rabbitmqctl -q status >/dev/null 2>&1; then
        inside rabbitmq-server >"$root/hmq/log/console" 2>&1 </dev/null &
        inside rabbitmqctl -q await_startup --timeout 60 >/dev/null 2>&1 ||
            inside rabbitmqctl -q wait --timeout 60 /hmq/pid >/dev/null || cannot "it does not start"
    fi
    echo "rabbitmq on port $port: $(inside rabbitmqctl -q version | tail -1)"
    ;;
stop)
    [ ! -x "$root/usr/lib/rabbitmq/bin/rabbitmqctl" ] || inside rabbitmqctl -q stop >/dev/null 2>&1 || true
    ;;
ctl)
    shift
    inside rabbitmqctl -q "$@"
    ;;
*)
    sed -n '2,9p' "$0"
    exit 2
    ;;
esac

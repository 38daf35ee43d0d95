#!/usr/bin/env bash
# An Apache Kafka server of the tests' own, one node in KRaft mode: by Java and Maven, or where they
# are missing by docker compose (which has the plaintext port alone).
#
#   tools/kafka.sh start | stop | kill | pause | resume | tool CLASS ARGUMENTS… | jars | installed
#
#   HMQ_KAFKA_VERSION   default 4.1.0
#   HMQ_KAFKA_DIR       where it keeps everything (default target/infra/kafka-VERSION)
#   HMQ_KAFKA_PORT      its port, on 127.0.0.1 only (default 9392); the next ones are for TLS, SASL
#                       over TLS, SASL without TLS, and the controller
#
# SASL users, PASSWORD being NAME-secret: alice and mallory by PLAIN, bob by SCRAM-SHA-256 and
# SCRAM-SHA-512; whoever an unsigned token names by OAUTHBEARER, without TLS only. Rights can be
# denied to all but alice, bob and who does not log in. A class of `tool` without a dot is in
# org.apache.kafka.tools or kafka.admin.
set -eu
cd "$(dirname "$0")/.."
version=${HMQ_KAFKA_VERSION:-4.1.0}
dir=${HMQ_KAFKA_DIR:-$PWD/target/infra/kafka-$version}
port=${HMQ_KAFKA_PORT:-9392}
# Of tools/kafka-cluster.sh: every node's controller, which node this is, whose jars it takes.
voters=${HMQ_KAFKA_VOTERS:-1@127.0.0.1:$((port + 4))}
node=${HMQ_KAFKA_NODE:-1}
libs=${HMQ_KAFKA_LIBS:-$dir/libs}
heap=${HMQ_KAFKA_HEAP:-512m}

usage() {
    sed -n '2,15p' "$0"
    exit 2
}

native() {
    command -v java >/dev/null && { [ -d "$libs" ] || command -v mvn >/dev/null; }
}

if [ -z "${HMQ_KAFKA_VOTERS:-}" ] && ! native && docker compose version >/dev/null 2>&1; then
    compose() {
        HMQ_KAFKA_VERSION=$version HMQ_KAFKA_PORT=$port \
            docker compose -p "hmq-kafka-$port" -f docker-compose.yml "$@"
    }
    case ${1:-} in
    installed | jars) exit 0 ;;
    start) compose up -d --wait kafka ;;
    stop) compose stop kafka ;;
    kill) compose kill kafka ;;
    pause) compose pause kafka ;;
    resume) compose unpause kafka ;;
    tool)
        class=$2
        case $class in *.*) ;; *) class=org.apache.kafka.tools.$class ;; esac
        shift 2
        compose exec -T kafka /opt/kafka/bin/kafka-run-class.sh "$class" --bootstrap-server localhost:19092 "$@"
        ;;
    *) usage ;;
    esac
    exit
fi

jars() {
    native || { echo "tools/kafka.sh: no Java or Maven here; Debian: apt-get install openjdk-17-jre-headless maven" >&2; exit 1; }
    [ ! -d "$libs" ] || return 0
    mkdir -p "$dir"
    {
        echo '<project><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>helixmq</groupId><artifactId>kafka</artifactId><version>0</version><packaging>pom</packaging><dependencies>'
        for jar in org.apache.kafka:kafka_2.13:"$version" org.apache.kafka:kafka-tools:"$version" org.slf4j:slf4j-simple:1.7.36; do
            IFS=: read -r group artifact number <<<"$jar"
            echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$number</version></dependency>"
        done
        echo '</dependencies></project>'
    } >"$dir/pom.xml"
    rm -rf "$libs.new"
    if ! mvn -B -q -f "$dir/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$libs.new" -DincludeScope=runtime >"$dir/maven.log" 2>&1; then
        tail -20 "$dir/maven.log" >&2
        exit 1
    fi
    # One slf4j binding, so that the log is where it is looked for.
    rm -f "$libs.new"/slf4j-reload4j-* "$libs.new"/log4j-slf4j*-impl-*
    mv "$libs.new" "$libs"
}

tool() { # tool CLASS ARGUMENTS…
    java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
        -cp "$libs/*" "$@"
}

pid() {
    cat "$dir/pid" 2>/dev/null
}

alive() { # Not another process that has got the number since.
    tr '\0' ' ' 2>/dev/null <"/proc/$(pid || echo none)/cmdline" | grep -qF "$dir/server.properties"
} 2>/dev/null

running() {
    alive || { echo "tools/kafka.sh: no server of $dir runs" >&2; exit 1; }
}

gone() { # gone SECONDS: waits for its end
    local turns=$(($1 * 20))
    while alive; do
        [ $((turns -= 1)) -gt 0 ] || return 1
        sleep 0.05
    done
}

answers() { # A request for the API versions, and the first bytes of an answer.
    [ "$(
        exec 3<>"/dev/tcp/127.0.0.1/$port" || exit
        printf '\0\0\0\x0d\0\x12\0\0\0\0\0\1\0\3hmq' >&3
        timeout 5 head -c 8 <&3 | wc -c
    )" = 8 ]
} 2>/dev/null

ready() {
    grep -qF 'Kafka Server started' "$dir/log" 2>/dev/null && answers
}

properties() {
    local listeners=PLAINTEXT://127.0.0.1:$port copies=1 insync=1
    if [ -n "${HMQ_KAFKA_VOTERS:-}" ]; then
        copies=3 insync=2
    else
        listeners=$listeners,SSL://127.0.0.1:$((port + 1)),SASL_SSL://127.0.0.1:$((port + 2)),SASL_PLAINTEXT://127.0.0.1:$((port + 3))
    fi
    cat <<END
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=$listeners,CONTROLLER://127.0.0.1:$((port + 4))
advertised.listeners=$listeners
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
default.replication.factor=$copies
min.insync.replicas=$insync
offsets.topic.num.partitions=5
offsets.topic.replication.factor=$copies
transaction.state.log.num.partitions=5
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$insync
share.coordinator.state.topic.num.partitions=5
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$insync
# A server that was killed is let in again when the controller has given up the one before.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:alice;User:bob
allow.everyone.if.no.acl.found=true
END
    [ -z "${HMQ_KAFKA_VOTERS:-}" ] || return 0
    cat <<END
ssl.keystore.type=PEM
ssl.keystore.location=$dir/tls/kafka.pem
ssl.truststore.type=PEM
ssl.truststore.location=$dir/tls/ca.pem
ssl.client.auth=requested
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
END
    local modules=org.apache.kafka.common.security
    local listener
    for listener in sasl_ssl sasl_plaintext; do
        cat <<END
listener.name.$listener.plain.sasl.jaas.config=$modules.plain.PlainLoginModule required user_alice="alice-secret" user_mallory="mallory-secret";
listener.name.$listener.scram-sha-256.sasl.jaas.config=$modules.scram.ScramLoginModule required;
listener.name.$listener.scram-sha-512.sasl.jaas.config=$modules.scram.ScramLoginModule required;
END
    done
    echo "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config=$modules.oauthbearer.OAuthBearerLoginModule required;"
}

start() {
    mkdir -p "$dir"
    # Two who start it at once start one.
    exec 9>"$dir/lock"
    flock 9
    jars
    if alive; then
        kill -CONT "$(pid)"
        if ready; then
            echo "kafka on port $port: $version, already there"
            return
        fi
        kill -KILL "$(pid)"
        gone 10 || true
    fi
    tools/certificates.sh "$dir/tls"
    openssl pkcs8 -topk8 -nocrypt -in "$dir/tls/server.key" | cat - "$dir/tls/server.pem" "$dir/tls/ca.pem" >"$dir/tls/kafka.pem"
    properties >"$dir/server.properties"
    if [ ! -f "$dir/data/meta.properties" ]; then
        rm -rf "$dir/data"
        # Sixteen bytes that all nodes have in common.
        local first=${voters%%,*} identity
        identity=$(printf 'helixmq-%08d' "${first##*:}" | base64 | tr '+/' '-_' | tr -d '=')
        tool kafka.tools.StorageTool format -t "$identity" -c "$dir/server.properties" \
            --add-scram 'SCRAM-SHA-256=[name=bob,password=bob-secret]' \
            --add-scram 'SCRAM-SHA-512=[name=bob,password=bob-secret]' >"$dir/format.log" 2>&1 ||
            { tail -20 "$dir/format.log" >&2; exit 1; }
    fi
    [ ! -f "$dir/log" ] || mv "$dir/log" "$dir/log.before"
    setsid java -Xmx"$heap" -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.showDateTime=true \
        -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
        -cp "$libs/*" kafka.Kafka "$dir/server.properties" >"$dir/log" 2>&1 </dev/null 9>&- &
    echo $! >"$dir/pid"
    local until=$((SECONDS + 60))
    until ready; do
        if ! kill -0 "$(pid)" 2>/dev/null || [ $SECONDS -ge $until ]; then
            tail -40 "$dir/log" >&2
            exit 1
        fi
        sleep 0.1
    done
    echo "kafka on port $port: $version"
}

case ${1:-} in
installed)
    native
    ;;
jars)
    jars
    ;;
start)
    start
    ;;
stop)
    alive || exit 0
    # One that stands still does not hear the request.
    kill -TERM "$(pid)"
    kill -CONT "$(pid)"
    # Without a majority of its cluster it waits for ever.
    gone 10 || kill -KILL "$(pid)"
    gone 5
    ;;
kill)
    running
    kill -KILL "$(pid)"
    gone 10
    ;;
pause)
    running
    pid=$(pid)
    kill -STOP "$pid"
    # A thread may run on for a moment, and answer what a test sends to a server that stands still.
    while cat "/proc/$pid"/task/*/status 2>/dev/null | grep -q '^State:[[:space:]]*[^T[:space:]]'; do
        sleep 0.01
    done
    ;;
resume)
    running
    kill -CONT "$(pid)"
    ;;
tool)
    [ $# -ge 2 ] || usage
    class=$2
    # Some that 4.x has among the tools, 3.x has in the server.
    case $class in
    *.*) ;;
    *) grep -qaF "org/apache/kafka/tools/$class.class" "$libs"/kafka-tools-*.jar && class=org.apache.kafka.tools.$class || class=kafka.admin.$class ;;
    esac
    shift 2
    case " $* " in
    *" --bootstrap-server "*) tool "$class" "$@" ;;
    *) tool "$class" --bootstrap-server "127.0.0.1:$port" "$@" ;;
    esac
    ;;
*)
    usage
    ;;
esac

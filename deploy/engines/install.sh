#!/usr/bin/env bash
# Sets up the real engines besides PostgreSQL (which is in .venv): as root on Debian Java 17, Maven, RabbitMQ, kcat and Go where missing, then
# Kafka's jars and versitygw in .tools. Safe to run again; ends with the versions, or with what is missing and exit code 1.
set -euo pipefail
cd "$(dirname "$0")/../.."

VERSITYGW=github.com/versity/versitygw/cmd/versitygw@v1.8.0
RABBITMQ=/usr/lib/rabbitmq/bin/rabbitmq-server
JAVA_LEAST=17

has() { command -v "$1" > /dev/null; }
twice() { "$@" || { sleep 5; "$@"; }; }
java_version() { java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p'; }
jars_there() { [ "$(cat .tools/kafka/pom.sha256 2> /dev/null)" = "$POM" ]; }
gateway_there() { [ -x .tools/versitygw ] && [ "$(cat .tools/versitygw.version 2> /dev/null)" = "$VERSITYGW" ]; }

install_debian() {
    echo "installing Debian packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    # RabbitMQ's package starts a service of its own, and enables it: ours is another node, on other ports, and only when asked for.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
        trap "rm -f $policy" EXIT
    fi
    twice apt-get update -qq
    local packages=("$@")
    apt-cache show openjdk-17-jre-headless > /dev/null 2>&1 || packages=("${packages[@]/openjdk-17-jre/default-jre}") # Debian 13 on
    twice apt-get install -qq -y --no-install-recommends "${packages[@]}" > /dev/null
    if has systemctl && [[ " $* " = *" rabbitmq-server "* ]]; then
        systemctl disable --quiet rabbitmq-server epmd.socket epmd.service 2> /dev/null || true
    fi
}

copy_jars() {
    echo "fetching Kafka's jars"
    rm -rf .tools/kafka.unfinished
    # Not -q alone: what Maven says goes to a file, shown only when it fails.
    if ! twice mvn -B -f deploy/engines/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
        "-DoutputDirectory=$PWD/.tools/kafka.unfinished" > .tools/maven.log 2>&1; then
        tail -n 12 .tools/maven.log >&2
        return 1
    fi
    echo "$POM" > .tools/kafka.unfinished/pom.sha256
    rm -rf .tools/kafka
    mv .tools/kafka.unfinished .tools/kafka
}

build_gateway() {
    local go
    go=$(deploy/find_go.sh) || return 1
    echo "building $VERSITYGW"
    GOBIN=$PWD/.tools twice "$go" install "$VERSITYGW" 2> .tools/go.log || { tail -n 12 .tools/go.log >&2; return 1; }
    echo "$VERSITYGW" > .tools/versitygw.version
}

mkdir -p .tools
POM=$(sha256sum deploy/engines/pom.xml | cut -d' ' -f1)
wanted=()
has java || wanted+=(openjdk-17-jre-headless)
jars_there || has mvn || wanted+=(maven)
gateway_there || has go || wanted+=(golang-go)
[ -x $RABBITMQ ] || wanted+=(rabbitmq-server)
has kcat || wanted+=(kcat)
has setpriv && has setsid || wanted+=(util-linux)
if [ ${#wanted[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && has apt-get; then
        install_debian "${wanted[@]}"
    else
        echo "missing, and only root on Debian can install them here: ${wanted[*]}" >&2
    fi
fi

missing=()
lacks() { missing+=("$1"); }
if ! has java; then
    lacks "Java $JAVA_LEAST (Debian: openjdk-17-jre-headless), which Kafka runs on"
elif [ "$(java_version)" -lt $JAVA_LEAST ]; then
    lacks "Java $JAVA_LEAST: \`java\` is $(java_version), too old for Kafka; put a newer one first in PATH"
fi
jars_there || { has mvn && copy_jars; } || lacks "Kafka's jars: they need Maven (Debian: maven) and its repository"
gateway_there || build_gateway || lacks "versitygw: it needs Go (Debian: golang-go) and the module proxy"
[ -x $RABBITMQ ] || lacks "RabbitMQ (Debian: rabbitmq-server): no $RABBITMQ"
has kcat || lacks "kcat (Debian: kcat), only for looking at topics"
if [ ${#missing[@]} -gt 0 ]; then
    printf 'engines: there is no %s\n' "${missing[@]}" >&2
    exit 1
fi
kafka=(.tools/kafka/kafka_2.13-*.jar)
kafka=${kafka[0]##*kafka_2.13-}
rabbitmq=(/usr/lib/rabbitmq/lib/rabbitmq_server-*)
echo "engines: Java $(java_version), Kafka ${kafka%.jar}, RabbitMQ ${rabbitmq[0]##*-}, ${VERSITYGW##*/}; PostgreSQL is in .venv (make install)"

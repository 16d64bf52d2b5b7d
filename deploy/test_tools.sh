#!/usr/bin/env bash
# Sets up what the tests need besides .venv: as root on Debian missing packages, and Go programs in .tools. What cannot be had is
# named; its tests are skipped, or fail where CI=true. The real engines have a script of their own, deploy/engines/install.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

GRPCURL=github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
GHZ=github.com/bojand/ghz/cmd/ghz@v0.121.0

twice() { "$@" || { sleep 5; "$@"; }; }

missing=()
command -v git > /dev/null || missing+=(git)
command -v chromium > /dev/null || missing+=(chromium fonts-dejavu-core)
command -v setpriv > /dev/null || missing+=(util-linux)
deploy/find_python.sh > /dev/null 2>&1 || missing+=(python3 python3-venv)
[ -x .tools/grpcurl ] && [ -x .tools/ghz ] || command -v go > /dev/null || missing+=(golang-go)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        echo "installing Debian packages: ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        twice apt-get update -qq
        twice apt-get install -qq -y --no-install-recommends "${missing[@]}"
    else
        echo "missing, and only root can install them: ${missing[*]}" >&2
    fi
fi

mkdir -p .tools
for tool in $GRPCURL $GHZ; do
    name=$(basename "${tool%@*}")
    if [ -x ".tools/$name" ] && [ "$(cat ".tools/$name.version" 2>/dev/null)" = "$tool" ]; then
        continue
    fi
    if go=$(deploy/find_go.sh) && echo "building $tool" && GOBIN=$PWD/.tools twice "$go" install "$tool"; then
        echo "$tool" > ".tools/$name.version"
    else
        echo "no $name (it needs Go, recent enough for $tool): its tests are skipped" >&2
    fi
done

deploy/engines/install.sh || echo "without these engines their tests are skipped" >&2

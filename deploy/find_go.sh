#!/usr/bin/env bash
# Prints a Go that can build the programs of .tools: the one in PATH where it can fetch a newer compiler by itself (1.21 on), else (Debian 12
# has 1.19) a newer one that it fetches once, as the module that compilers are published as, into .tools/go.
set -euo pipefail
cd "$(dirname "$0")/.."

LEAST_MINOR=21
TOOLCHAIN=v0.0.1-go1.26.8
MODULE="golang"".org/toolchain" # a module's name, not an address

command -v go > /dev/null || exit 1
minor=$(go env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -ge $LEAST_MINOR ]; then
    command -v go
    exit
fi
version=$TOOLCHAIN.$(go env GOOS)-$(go env GOARCH)
place=$PWD/.tools/go
if [ "$(cat "$place/toolchain" 2> /dev/null)" != "$version" ]; then
    echo "fetching ${version#*-}: $(go env GOVERSION) is too old" >&2
    # Go compares what it gets with the public checksum database.
    folder=$(go mod download -json "$MODULE@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    rm -rf "$place" "$place.unfinished"
    cp -r "$folder" "$place.unfinished"
    chmod -R u+w,a+rX "$place.unfinished"
    chmod -R a+x "$place.unfinished/bin" "$place.unfinished/pkg/tool"
    echo "$version" > "$place.unfinished/toolchain"
    mv "$place.unfinished" "$place"
fi
echo "$place/bin/go"

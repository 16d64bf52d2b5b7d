#!/usr/bin/env bash
# Makes .venv: exactly the packages of constraints.txt, each checked against its hash, then this project. Quick when nothing
# changed since; a change of constraints.txt makes it anew, so that no package stays that is not named there.
set -euo pipefail
cd "$(dirname "$0")/.."

constraints=$(cksum constraints.txt)
project=$(cksum pyproject.toml; pwd)
works() { .venv/bin/python -c '' 2>/dev/null; }
is() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

if works && is .venv/.constraints "$constraints" && is .venv/.project "$project"; then
    exit 0
fi
if ! works || { [ -f .venv/.constraints ] && ! is .venv/.constraints "$constraints"; }; then
    python=$(deploy/find_python.sh)
    echo "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
if ! is .venv/.constraints "$constraints"; then
    pip install --quiet --require-hashes --only-binary :all: -r constraints.txt
    echo "$constraints" > .venv/.constraints
fi
pip install --quiet --no-deps --no-build-isolation -e .
echo "$project" > .venv/.project

#!/usr/bin/env bash
# Prints a Python that the project can be installed with: 3.11 or newer, able to make a virtual environment.
set -euo pipefail

without_venv=
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 python}; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
    without_venv=${without_venv:-$candidate}
done

if [ -n "$without_venv" ]; then
    echo "$without_venv cannot make a virtual environment (no ensurepip). Debian: apt-get install python3-venv" >&2
else
    echo "Python 3.11 or newer is needed; tried: ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 python}." >&2
    echo "Debian 12: apt-get install python3 python3-venv. Or name one: make install PYTHON=path/to/python3" >&2
fi
exit 1

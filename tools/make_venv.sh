#!/bin/sh
# Make a virtual environment with pinned packages: make_venv.sh DIRECTORY REQUIREMENTS
# PYTHON=… chooses the interpreter; else the newest of 3.11 to 3.13 that works.
set -eu
venv=$1
requirements=$2

works() { # version managers leave commands that exist and do not run
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (4,))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    works "$PYTHON" || { echo "PYTHON=$PYTHON is not Python 3.11 or newer" >&2; exit 1; }
else
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if works "$candidate"; then PYTHON=$candidate; break; fi
    done
    [ -n "${PYTHON:-}" ] || { echo "Ganger needs Python 3.11 or newer: install it, or set PYTHON=/path/to/it" >&2; exit 1; }
fi

if [ ! -x "$venv/bin/python" ] || ! works "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "making $venv with $("$PYTHON" --version)"
    rm -rf "$venv"
    if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            apt-get update -qq && apt-get install -y -qq "python$version-venv"
        else
            echo "Python's venv module is missing: install it (Debian, Ubuntu: apt-get install python$version-venv)" >&2
            exit 1
        fi
    fi
    "$PYTHON" -m venv "$venv"
fi
echo "installing $requirements into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"

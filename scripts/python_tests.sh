#!/usr/bin/env bash
# Runs pytest on its arguments, in an environment of tests/requirements.txt kept in build/venv.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/venv
if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/requirements.txt"
fi
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"

#!/usr/bin/env bash
# The one gate: format, floors, build with warnings as errors, tests. Hooks and CI call it and hold no logic.
set -uo pipefail
cd "$(dirname "$0")/.."
passed=0
failed=0

# step NAME COMMAND...: one line per step; the output is shown when it fails.
step() {
  local name=$1 log start=$SECONDS
  shift
  log=$(mktemp)
  printf '%-28s' "$name"
  if "$@" >"$log" 2>&1; then
    passed=$((passed + 1))
    printf 'ok      %4d s\n' $((SECONDS - start))
  else
    failed=$((failed + 1))
    printf 'FAILED  %4d s\n' $((SECONDS - start))
    tail -n 60 "$log"
  fi
  rm -f "$log"
}

build() { cmake --preset "$1" && cmake --build --preset "$1"; }

step install scripts/install.sh --tests
step floors python3 scripts/check_floors.py
step format scripts/check_format.sh
step build build cpu-release
step tests ctest --preset cpu-release -LE gpu
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

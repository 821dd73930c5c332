#!/usr/bin/env bash
# The one gate: format, floors, build with warnings as errors, tests. Hooks and CI call it and hold no logic.
# usage: check.sh [--lint]      --lint: clang-tidy too, seven minutes the first time
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

build() { cmake --preset "$1" && cmake --build --preset "$1" ${2:+--target ${@:2}}; }

# ./quickstart on a machine that has no packages of the tests.
as_user() { cmake --preset cpu-release -B build/user -DFATHOM_TESTS=OFF -DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON; }

# Runs a program, unless it passed before, the same to the byte, with the same test data.
once() {
  local key
  key=$({ sha256sum "$1" | cut -d' ' -f1; printf '%s\n' "${@:2}"; find tests/data tests/*/data tests/contracts_model models -type f -print0 | sort -z |
    xargs -0 sha256sum; } | sha256sum | cut -c1-32)
  if [ -e "build/passed/$key" ]; then
    echo "$1: passed before, unchanged"
    return 0
  fi
  "$@" && mkdir -p build/passed && touch "build/passed/$key"
}

# The suites that a sanitizer build runs: parsers of foreign bytes, the scheduler, the whole engine.
sanitized=(text_test cache_test sched_test engine_test engine_suite)
sanitize() {
  build "$1" "${sanitized[@]}" || return 1
  for program in text_test cache_test sched_test engine_test tests/engine_suite; do
    once "build/$1/$program" || return 1
  done
}
engine_without_races() {
  build cpu-tsan engine_suite engine_test && once build/cpu-tsan/tests/engine_suite && once build/cpu-tsan/engine_test
}

# One release build: with CUDA where nvcc is (scripts/check_cuda.sh), else without; the same tests run on either.
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  release=cuda-release
  release_build=scripts/check_cuda.sh
else
  release=cpu-release
  release_build="build cpu-release"
fi

step install scripts/install.sh --tests
step floors python3 scripts/check_floors.py
step features python3 scripts/check_features.py
step format scripts/check_format.sh
step "configure as a user" as_user
step "build $release" $release_build
[ "${1:-}" != --lint ] || step clang-tidy scripts/check_tidy.py "build/$release"
step tests ctest --preset "$release" -LE "gpu|slow" --no-tests=error
step "contracts model" once tests/contracts_model/run.py --quick
step "fuzz corpora" scripts/fuzz.sh -t 0
step "address, undefined" sanitize cpu-dev
step thread engine_without_races
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

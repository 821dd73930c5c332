#!/usr/bin/env bash
# Compiles the ops for aarch64 and runs their tests, NEON rows among them, under qemu-user. Not part of ./check: on two cores
# the first build takes about ten minutes, the emulated tests five.
#   scripts/check_neon.sh [arguments for op_test, as --gtest_filter=...]
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v qemu-aarch64 >/dev/null || ! command -v aarch64-linux-gnu-g++-12 >/dev/null; then
  as_root=""
  [ "$(id -u)" -eq 0 ] || as_root="sudo"
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends qemu-user g++-12-aarch64-linux-gnu >/dev/null
fi
start=$SECONDS
build=build/neon
toolchain=(-G Ninja -DCMAKE_TOOLCHAIN_FILE="$PWD/cmake/aarch64.cmake" -DCMAKE_BUILD_TYPE=Release)
command -v ccache >/dev/null && toolchain+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
if [ ! -e "$build/gtest/lib/libgtest.a" ]; then
  cmake -S /usr/src/googletest -B "$build/gtest-build" "${toolchain[@]}" -DCMAKE_INSTALL_PREFIX="$PWD/$build/gtest" -DCMAKE_INSTALL_LIBDIR=lib >/dev/null
  cmake --build "$build/gtest-build" --target install >/dev/null
fi
# Libraries of folders that the ops do not need: their headers are the host's, their functions stay unresolved and uncalled.
[ -e "$build/none.a" ] || aarch64-linux-gnu-ar rc "$build/none.a"
cmake -S . -B "$build" "${toolchain[@]}" -DGTest_DIR="$PWD/$build/gtest/lib/cmake/GTest" \
  -Dpkgcfg_lib_YAML_yaml-cpp="$PWD/$build/none.a" -Dpkgcfg_lib_PCRE_pcre2-8="$PWD/$build/none.a" -Dpkgcfg_lib_UTF8_utf8proc="$PWD/$build/none.a" \
  "-DCMAKE_EXE_LINKER_FLAGS=-static -Wl,--unresolved-symbols=ignore-all" >/dev/null
cmake --build "$build" --target op_test ops_test
echo "built: $((SECONDS - start)) s"
export QEMU_LD_PREFIX=/usr/aarch64-linux-gnu
start=$SECONDS
qemu-aarch64 "$build/ops_test" --gtest_brief=1
for shard in {0..7}; do  # the emulator keeps all memory that cases have ever taken
  GTEST_TOTAL_SHARDS=8 GTEST_SHARD_INDEX=$shard qemu-aarch64 "$build/tests/op_test" --gtest_brief=1 "$@"
done
echo "tests: $((SECONDS - start)) s"

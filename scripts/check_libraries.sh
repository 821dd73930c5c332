#!/usr/bin/env bash
# What a program asks of a machine at its start: libc and its parts alone, no driver, no library that a package brings.
# usage: check_libraries.sh PROGRAM
set -euo pipefail
wanted=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
if others=$(grep -vE '^(lib(c|m|dl|rt|pthread)\.so\.[0-9]+|ld-linux.*)$' <<<"$wanted"); then
  printf '%s needs at its start:\n%s\n' "$1" "$others"
  exit 1
fi

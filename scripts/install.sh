#!/usr/bin/env bash
# Installs what fathom builds and tests with, from Debian's packages. Does nothing when all is there.
set -euo pipefail
packages=(
  build-essential cmake ninja-build ccache pkg-config git python3 python3-venv
  libfmt-dev libspdlog-dev nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libboost1.81-dev
  libpcre2-dev libutf8proc-dev libhwy-dev
)
if [ "${1:-}" = "--tests" ]; then
  packages+=(libgtest-dev libgmock-dev clang clang-format clang-tidy libclang-rt-14-dev spin curl)
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"
$as_root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

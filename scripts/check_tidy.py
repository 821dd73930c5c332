#!/usr/bin/env python3
"""clang-tidy on every source of the program (not of its tests), several at a time; a file that passed is not read again until it, a header
of ours that it includes, or .clang-tidy changes. Left out, since clang 14 cannot read them: what is compiled once per
instruction set (Highway) and what names instruction sets that it does not know.

usage: check_tidy.py BUILD_DIRECTORY      (built: compile_commands.json and ninja's record of headers are read)
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAMPS = ROOT / "build" / "tidy"
UNKNOWN_TO_CLANG = ROOT / "fathom" / "base" / "cpu_features.cc"


def headers_of_objects(build):
    """{object: [files that it was made from]}, from ninja's record of the last build."""
    text = subprocess.run(["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True, check=True).stdout
    result, files = {}, []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            files = result.setdefault(line.split(":")[0], [])
        elif line.strip():
            files.append((build / line.strip()).resolve())
    return result


class Digests:
    def __init__(self):
        self.known = {}

    def of(self, path):
        if path not in self.known:
            self.known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self.known[path]


def work_list(build):
    """[(source, stamp)] of what has to be read."""
    digests, headers = Digests(), headers_of_objects(build)
    result = []
    for command in json.loads((build / "compile_commands.json").read_text()):
        source = pathlib.Path(command["directory"], command["file"]).resolve()
        folder = source.relative_to(ROOT).parts[0] if source.is_relative_to(ROOT) else ""
        if folder not in ("fathom", "apps") or not re.fullmatch(r".*(?<!_test)(?<!_case)\.cc", source.name):
            continue
        made = headers.get(re.search(r" -o (\S+)", command["command"]).group(1), [])
        if source == UNKNOWN_TO_CLANG or any("/hwy/" in str(file) for file in made):
            continue
        ours = {file for file in made if file.is_relative_to(ROOT) and file.exists()}
        files = sorted({source, ROOT / ".clang-tidy", *ours})
        key = hashlib.sha256("".join(digests.of(f) for f in files).encode()).hexdigest()[:32]
        if not (STAMPS / key).exists():
            result.append((source, STAMPS / key))
    return result


def tidy(build, source, stamp):
    run = subprocess.run(["clang-tidy", "--quiet", "-p", build, source], capture_output=True, text=True)
    if run.returncode == 0:
        stamp.touch()
    return run


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    STAMPS.mkdir(parents=True, exist_ok=True)
    todo = work_list(build)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for run in pool.map(lambda item: tidy(build, *item), todo):
            if run.returncode != 0:
                failed += 1
                print(run.stdout)
    print(f"clang-tidy: {len(todo)} files read, {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Holds every #include of ours against cmake/floors.cmake, and the include graph against knots."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def read_floors():
    text = (ROOT / "cmake/floors.cmake").read_text()
    floors = {}
    for name, allowed in re.findall(r'"(\w+) *: *([\w. ]*)"', text):
        floors[name] = allowed.split()
    return floors


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#include "fathom/([^"]+)"', line)
        if match:
            yield number, match.group(1)


def allowed(folder, target, floors):
    room = target.split("/")[0]
    if room == folder:
        return True
    for entry in floors[folder]:
        if entry == room or entry == target[:-2].replace("/", "."):
            return True
        if entry == "engine.public" and target == "engine/engine.h":
            return True
    return False


def find_cycle(graph):
    state, stack = {}, []

    def visit(node):
        state[node] = 1
        stack.append(node)
        for following in graph.get(node, ()):
            if state.get(following) == 1:
                return stack[stack.index(following):] + [following]
            if following not in state:
                cycle = visit(following)
                if cycle:
                    return cycle
        stack.pop()
        state[node] = 2
        return None

    for node in list(graph):
        if node not in state:
            cycle = visit(node)
            if cycle:
                return cycle
    return None


def main():
    floors = read_floors()
    problems, files, folders = [], {}, {}
    for path in sorted((ROOT / "fathom").rglob("*")):
        if path.suffix not in (".h", ".cc", ".cu", ".cuh"):
            continue
        name = str(path.relative_to(ROOT / "fathom"))
        folder = name.split("/")[0]
        test_side = path.stem.endswith(("_test", "_case"))
        if folder not in floors:
            problems.append(f"fathom/{name}: folder {folder} has no floor in cmake/floors.cmake")
            continue
        for number, target in includes(path):
            files.setdefault(name, set()).add(target)
            room = target.split("/")[0]
            if room != folder and not test_side:
                folders.setdefault(folder, set()).add(room)
            if test_side and (room == "testing" or room in floors):
                continue
            if not allowed(folder, target, floors):
                problems.append(f"fathom/{name}:{number}: {folder} must not include {target}")
            if re.search(r"(cuda|device)/", target) and path.suffix == ".h" and "cuda" not in name and "device" not in name:
                problems.append(f"fathom/{name}:{number}: a .h outside core/cuda and ops/device includes {target}")
    for graph, kind in ((files, "files"), (folders, "folders")):
        cycle = find_cycle(graph)
        if cycle:
            problems.append(f"include knot of {kind}: " + " -> ".join(cycle))
    print("\n".join(problems) if problems else f"floors: {len(files)} files in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

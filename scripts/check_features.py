#!/usr/bin/env python3
"""Holds every row of engine/features.def against the places where its name must appear (architecture, section 5)."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def sources(folder):
    return [p for p in (ROOT / folder).rglob("*") if p.suffix in (".h", ".cc", ".cu", ".cuh")]


def mentions(paths, name):
    word = re.compile(rf"\b{re.escape(name)}\b")
    return [p for p in paths if word.search(p.read_text())]


def main():
    table = (ROOT / "fathom/engine/features.def").read_text()
    rows = re.findall(r'^FATHOM_FEATURE\((\w+), (true|false), (same|close|lossy), "(\w+)"', table, re.M)
    problems = []
    switch_sources = [p for p in sources("fathom/engine") if p.name not in ("features.def", "features.h")]
    for name, _, promise, home in rows:
        page = ROOT / f"docs/features/{name}.md"
        if not page.exists():
            problems.append(f"{name}: docs/features/{name}.md is missing")
        elif f"Promise: {promise}" not in page.read_text():
            problems.append(f"{name}: its page does not say 'Promise: {promise}' as the table does")
        if not mentions(sources(f"fathom/{home}"), name):
            problems.append(f"{name}: not named in its home fathom/{home}")
        if not [p for p in switch_sources if f"Feature::{name}" in p.read_text() and not p.stem.endswith("_test")]:
            problems.append(f"{name}: no switch point (Feature::{name}) in fathom/engine")
        if not [p for p in switch_sources if f'"{name}"' in p.read_text()]:
            problems.append(f"{name}: no hit counter in fathom/engine")
        test = ROOT / f"tests/features/{name}_test.cc"
        if not test.exists():
            problems.append(f"{name}: tests/features/{name}_test.cc is missing")
    for page in (ROOT / "docs/features").glob("*.md"):
        if page.stem != "README" and page.stem not in [row[0] for row in rows]:
            problems.append(f"docs/features/{page.name}: no such row in features.def")
    print("\n".join(problems) if problems else f"features: {len(rows)} rows complete")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

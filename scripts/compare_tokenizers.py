#!/usr/bin/env python3
"""Holds fathom's tokenizer against the `tokenizers` package: ids on mixed text, decoded text, and speed, one thread each.

usage: compare_tokenizers.py [--megabytes N] [--program PATH] [TOKENIZER_JSON ...]

Without files, small tokenizers of every family are trained. The program is build/cpu-release/tests/encode_file.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

from tokenizers import Tokenizer

from mixed_text import MixedText
from tokenizer_families import families

ROOT = pathlib.Path(__file__).resolve().parent.parent


def write_records(path, records):
    with open(path, "wb") as file:
        for record in records:
            data = record.encode()
            file.write(struct.pack("<I", len(data)) + data)


def read_records(path, bytes_each):
    data, at, records = path.read_bytes(), 0, []
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        records.append(data[at + 4 : at + 4 + count * bytes_each])
        at += 4 + count * bytes_each
    return records


def run(program, tokenizer, folder, *flags):
    done = subprocess.run([program, tokenizer, folder / "in", folder / "out", *flags], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{tokenizer}: {done.stderr}")
    return float(done.stdout)


def compare(name, path, records, program, folder):
    theirs = Tokenizer.from_file(str(path))
    megabytes = sum(len(r.encode()) for r in records) / 1e6
    differing = 0
    for special in (True, False):
        theirs.encode_special_tokens = not special
        start = time.perf_counter()
        expected = [theirs.encode(record).ids for record in records]
        speed = megabytes / (time.perf_counter() - start)
        ours_speed = run(program, path, folder, *([] if special else ["--no-special"]))
        ours = [list(struct.unpack(f"<{len(r) // 4}i", r)) for r in read_records(folder / "out", 4)]
        bad = [i for i, ids in enumerate(expected) if ids != ours[i]]
        differing += len(bad)
        print(f"{name:12} {'parsed' if special else 'plain':7} {megabytes:6.1f} MB  {sum(map(len, expected)):9} ids  "
              f"{len(bad):5} records differ  ours {ours_speed:7.1f} MB/s  theirs {speed:6.1f} MB/s  "
              f"x{ours_speed / speed:.1f}", flush=True)
        if bad:
            show_difference(records[bad[0]], expected[bad[0]], ours[bad[0]], theirs)
        if special:
            texts = theirs.decode_batch(expected)
    run(program, path, folder, "--decode")
    bad = [i for i, t in enumerate(read_records(folder / "out", 1)) if t.decode() != texts[i]]
    print(f"{name:12} decoded {len(bad)} records differ")
    if bad:
        print("  theirs", repr(texts[bad[0]])[:300], "\n  ours  ", repr(read_records(folder / "out", 1)[bad[0]].decode())[:300])
    return differing + len(bad)


def show_difference(record, expected, ours, theirs):
    at = next((i for i, (a, b) in enumerate(zip(expected, ours)) if a != b), min(len(expected), len(ours)))
    names = lambda ids: [theirs.id_to_token(i) for i in ids[max(at - 3, 0) : at + 6]]
    print("  at", at, "of", repr(record[:60]), "\n  theirs", names(expected), "\n  ours  ", names(ours))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("--program", default=ROOT / "build/cpu-release/tests/encode_file")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files = {path.stem: path for path in options.files}
        if not files:
            for family, data in families(options.vocabulary, 3_000_000).items():
                files[family] = folder / f"{family}.json"
                files[family].write_text(json.dumps(data, ensure_ascii=False))
        records = MixedText(2).records(options.megabytes * 1e6)
        write_records(folder / "in", records)
        differing = sum(compare(family, path, records, options.program, folder) for family, path in files.items())
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())

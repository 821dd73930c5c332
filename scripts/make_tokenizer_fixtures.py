#!/usr/bin/env python3
"""Writes tests/text/data/tokenizers: small tokenizers of every family and what the `tokenizers` package makes of texts.

Each <family>.json is a tokenizer.json; <family>.cases.json is a list of [text, ids, ids without special parsing, text
decoded from the ids].
"""
import json
import pathlib

from tokenizers import Tokenizer

from mixed_text import SENTENCES, MixedText
from tokenizer_families import families

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/text/data/tokenizers"
EDGES = ["", " ", "\n", "a", "  a  ", "<|im_start|>user\nhi<|im_end|>", " <mask>  x<mask>", "a<w>b <w> c<w>", "<tool>",
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\x00\x7f\u0080"]


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    mixed = MixedText(3)
    texts = EDGES + SENTENCES + [mixed.record(120) for _ in range(25)]
    for name, data in families(900, 300_000).items():
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text)
        tokenizer = Tokenizer.from_str(text)
        cases = []
        for case in texts:
            tokenizer.encode_special_tokens = False
            ids = tokenizer.encode(case).ids
            tokenizer.encode_special_tokens = True
            cases.append([case, ids, tokenizer.encode(case).ids, tokenizer.decode(ids)])
        (FOLDER / f"{name}.cases.json").write_text(json.dumps(cases, separators=(",", ":")))


if __name__ == "__main__":
    main()

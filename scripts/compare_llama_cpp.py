#!/usr/bin/env python3
"""Greedy tokens of fathom and llama.cpp for 20 prompts on the same GGUF weights. Where they part, shows how far apart
llama.cpp's own logits of the two tokens are: a near tie is no disagreement.

  pip install llama-cpp-python==0.3.36
  scripts/compare_llama_cpp.py [--fathom build/cpu-release/apps/fathom] [--file Q4_1] [--tokens 64]

llama.cpp computes on the file dequantised to F32 by its own tool: with quantised weights it would round activations to
8 bits as well. --file names the file that fathom reads: Q4_1 (the default model's own) or F32 (the same weights).
"""
import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fathom" / "models"
MODEL = "SmolLM2-135M-Instruct"
TIE = 1e-3
PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "The three laws of motion are",
    "Water boils at", "In 1969, humans first", "The quick brown fox", "My favourite recipe begins with",
    "To be or not to be,", "The derivative of x squared is", "A haiku about autumn:", "SELECT name FROM",
    "The largest planet in the solar system", "Dear Sir or Madam,", "List of prime numbers: 2, 3, 5,",
    "Photosynthesis is the process", "import numpy as np\n", "She opened the old wooden door and",
    "The difference between a virus and a bacterium", "Roses are red,",
]


def f32_file():
    import llama_cpp

    path = CACHE / f"{MODEL}.F32.gguf"
    if not path.exists():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = 0, True
        made = path.with_suffix(".part")
        if llama_cpp.llama_model_quantize(str(CACHE / f"{MODEL}.Q4_1.gguf").encode(), str(made).encode(), params):
            sys.exit("llama.cpp could not write F32")
        made.rename(path)
    return path


class Fathom:
    def __init__(self, program, model):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        port = self.url.rsplit(":", 1)[1]
        self.process = subprocess.Popen([program, "serve", "--model", str(model), "--port", port])
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(self.url + "/health")
                return
            time.sleep(0.1)
        sys.exit("fathom did not start")

    def greedy(self, ids, count):
        body = {"input_ids": ids, "sampling_params": {"temperature": 0, "max_new_tokens": count, "ignore_eos": True}}
        request = urllib.request.Request(self.url + "/generate", json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))["output_ids"]


def greedy_of_llama(model, ids, count):
    """Tokens, and the logits that each was chosen from."""
    import numpy

    model.reset()
    tokens, logits = [], []
    feed = ids
    for _ in range(count):
        model.eval(feed)
        logits.append(numpy.array(model.scores[model.n_tokens - 1]))
        tokens.append(int(logits[-1].argmax()))
        feed = tokens[-1:]
    return tokens, logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fathom", default="build/cpu-release/apps/fathom")
    parser.add_argument("--file", choices=["Q4_1", "F32"], default="F32")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    import llama_cpp

    plain = f32_file()
    llama = llama_cpp.Llama(str(plain), n_ctx=512, logits_all=True, verbose=False, n_threads=2)
    fathom = Fathom(options.fathom, plain if options.file == "F32" else CACHE / f"{MODEL}.Q4_1.gguf")
    equal = ties = 0
    for prompt in PROMPTS:
        ids = llama.tokenize(prompt.encode(), add_bos=False)
        theirs, logits = greedy_of_llama(llama, ids, options.tokens)
        ours = fathom.greedy(ids, options.tokens)
        first = next((i for i in range(options.tokens) if ours[i] != theirs[i]), None)
        if first is None:
            equal += 1
            continue
        gap = float(logits[first][theirs[first]] - logits[first][ours[first]])
        ties += gap < TIE
        print(f"{prompt!r}: part at token {first}, llama.cpp's logits {gap:.2e} apart")
    fathom.process.terminate()
    print(f"{equal} of {len(PROMPTS)} equal for {options.tokens} tokens, {ties} part at a tie below {TIE}")
    return 0 if equal + ties == len(PROMPTS) else 1


if __name__ == "__main__":
    sys.exit(main())

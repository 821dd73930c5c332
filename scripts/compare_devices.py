#!/usr/bin/env python3
"""Holds a model's greedy tokens on the GPU against those on the CPU: prompts with equal tokens, and for the others the
gap between the CPU's two logits where the answers part (0: a tie).

The bound: on the GPU activations and the residual stream are BF16. Sixty roundings of 2^-9 of the residual add like a
random walk to 1.5 % of it, so of a logit's deviation of about 4: 0.06, 0.09 for the difference of two. Weights of a GGUF
file are rounded to BF16 besides, and the CPU rounds activations to 15 bits. 0.5 is five deviations.

With --tasks FILE..., the answers to the first --limit tasks of each file (JSON Lines of `messages`, as `fathom eval` reads
them) are held against each other instead, and the share of equal ones printed.

usage: compare_devices.py --model M [--program PATH] [--bound GAP] [--tokens N] [--tasks FILE...] [--kernel-flags ...]
"""
import argparse
import concurrent.futures
import http.client
import json
import socket
import subprocess
import sys
import time

PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a little fox who",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "The three primary colours are",
    "Question: What is 12 times 12?\nAnswer:",
    "In 1969, the first human beings",
    "A haiku about autumn:\n",
    "The chemical symbol of gold is",
    "Dear Sir or Madam,\n\nI am writing to",
    "The largest ocean on Earth is",
    "SELECT name, age FROM people WHERE",
    "Photosynthesis is the process by which",
    "To make a good cup of tea, first",
    "Der schnelle braune Fuchs",
    "1, 1, 2, 3, 5, 8, 13,",
    "The opposite of cold is",
    "Romeo and Juliet was written by",
    "If all cats are animals and Tom is a cat, then",
    "The quick brown fox jumps over the lazy dog. " * 12 + "The moral of this story is",
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        sys.exit(f"the server answered {response.status}: {answer}")
    return answer["choices"][0]


def wait_ready(port, server):
    for _ in range(1200):
        if server.poll() is not None:
            sys.exit("the server ended before it was ready")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("the server did not become ready")


def answers(options, device, flags):
    port = free_port()
    command = [options.program, "serve", "--model", options.model, "--device", device, "--port", str(port), *flags]
    command += ["--any-model-name"]
    server = subprocess.Popen(command)
    try:
        wait_ready(port, server)
        if options.tasks:
            return replies(options, port)
        body = {"model": "m", "max_tokens": options.tokens, "temperature": 0, "logprobs": 20, "ignore_eos": True}
        body["return_token_ids"] = True
        return [post(port, "/v1/completions", {**body, "prompt": prompt}) for prompt in PROMPTS]
    finally:
        server.terminate()
        server.wait()


def replies(options, port):
    bodies = []
    for file in options.tasks:
        with open(file, encoding="utf-8") as lines:
            tasks = [json.loads(line) for line in lines][: options.limit]
        bodies += [{k: task[k] for k in ("messages", "tools") if task.get(k)} for task in tasks]
    body = {"model": "m", "max_tokens": 512, "temperature": 0}
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        return list(threads.map(lambda b: post(port, "/v1/chat/completions", {**body, **b})["message"], bodies))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/cuda-release/apps/fathom")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--bound", type=float, default=0.5)
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--limit", type=int, default=20)
    options, flags = parser.parse_known_args()
    reference = answers(options, "cpu", flags)
    got = answers(options, "cuda", flags)
    if options.tasks:
        equal = sum(want == have for want, have in zip(reference, got))
        print(f"{equal} of {len(reference)} answers are equal")
        return 0
    equal, worst = 0, 0.0
    for prompt, want, have in zip(PROMPTS, reference, got):
        pairs = list(zip(want["token_ids"], have["token_ids"]))
        parted = next((i for i, (w, h) in enumerate(pairs) if w != h), None)
        if parted is None:
            equal += 1
            continue
        best = want["logprobs"]["token_logprobs"][parted]
        other = want["logprobs"]["top_logprobs"][parted].get(have["logprobs"]["tokens"][parted])
        gap = float("inf") if other is None else best - other
        worst = max(worst, gap)
        print(f"{prompt[:40]!r}: parts at token {parted}, gap {gap:.4f}")
    print(f"{equal} of {len(PROMPTS)} prompts give equal tokens; the widest first gap is {worst:.4f}")
    return 0 if worst <= options.bound else 1


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Times fathom and llama.cpp on the same GGUF files, in turn, in one run: decode of one sequence and of a batch at a
context, and prefill. Prints medians and ratios as a Markdown table.

  pip install llama-cpp-python==0.3.36     # built for this CPU: CMAKE_ARGS=-DGGML_NATIVE=ON
  scripts/compare_llama_cpp_speed.py --formats Q4_1,BF16,safetensors,Q8_0,Q4_K_M

The formats beside the default model's own Q4_1 are requantised from it with llama.cpp's tool and kept in the cache;
"safetensors" holds the BF16 file's numbers and runs beside llama.cpp on that file.
Every run is a process of its own, so that no spinning thread of one program slows the other; both do all that is timed
once before, so that memory is touched.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fathom" / "models"
MODEL = "SmolLM2-135M-Instruct"
STEPS = 32  # decode steps of a run; their median counts
FILE_TYPES = {"BF16": 32, "F16": 1, "Q8_0": 7, "Q4_0": 2, "Q5_0": 8, "Q4_K_M": 15, "Q6_K": 18}


def model_file(format_name):
    path = CACHE / f"{MODEL}.{format_name}.gguf"
    if path.exists():
        return path
    import llama_cpp

    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[format_name]
    params.allow_requantize = True
    source = CACHE / f"{MODEL}.Q4_1.gguf"
    made = path.with_suffix(".part")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(made).encode(), params) != 0:
        sys.exit(f"llama.cpp could not make {path.name}")
    made.rename(path)
    return path


def safetensors_directory():
    path = CACHE / f"{MODEL}.BF16"
    if not path.exists():
        made = path.with_suffix(".part")
        subprocess.run(
            [sys.executable, REPOSITORY / "scripts/gguf_to_safetensors.py", model_file("BF16"), made], check=True
        )
        made.rename(path)
    return path


class Peer:
    """llama.cpp with `batch` sequences."""

    def __init__(self, path, threads, batch, context):
        import llama_cpp

        self.lib = llama_cpp
        self.batch = batch
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = batch * (context + STEPS + 32)
        params.n_batch = params.n_ubatch = max(512, context)
        params.n_seq_max = batch
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.tokens = llama_cpp.llama_batch_init(max(512, context, batch), 0, 1)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def decode(self, entries):
        """entries: (token, position, sequence, wants logits). Seconds until the logits are there."""
        b = self.tokens
        b.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, wanted
            b.seq_id[i][0] = sequence
        start = time.perf_counter()
        if self.lib.llama_decode(self.context, b) != 0:
            sys.exit("llama_decode failed")
        self.lib.llama_synchronize(self.context)
        return time.perf_counter() - start

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def measure(self, context):
        token = lambda i: (i * 7919 + 11) % self.vocab
        self.decode([(token(i), i, 0, i == context - 1) for i in range(context)])  # touches all memory, warms threads
        self.clear()
        prefill = sum(
            self.decode([(token(i + s), i, s, i == context - 1) for i in range(context)]) for s in range(self.batch)
        )
        steps = [
            self.decode([(token(i + s), context + i, s, True) for s in range(self.batch)]) for i in range(STEPS)
        ]
        return {"prefill": self.batch * context / prefill, "decode": self.batch / statistics.median(steps)}


def run_peer(path, threads, batch, context):
    command = [sys.executable, __file__, "--peer-run", str(path), str(threads), str(batch), str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_fathom(program, path, threads, batch, context, flags):
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as results:
        subprocess.run(
            [program, "bench", "one-batch", "-m", path, "-t", str(threads), "--batch-size", str(batch)]
            + ["--input-len", str(context), "--output-len", str(STEPS + 1), "--result-filename", results.name]
            + ["--repeats", "2"]  # the second counts
            + flags,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        line = json.loads(Path(results.name).read_text().splitlines()[-1])
    return {"prefill": line["prefill_throughput"], "decode": line["median_decode_throughput"]}


def host():
    names = [l.split(": ")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in l]
    return f"{len(names)} x {names[0]}" if names else "unknown CPU"


def compare(options, format_name, batch):
    peer_path = model_file("BF16" if format_name == "safetensors" else format_name)
    path = safetensors_directory() if format_name == "safetensors" else peer_path
    flags = [f"--feature={f}" for f in options.feature]
    ours, theirs = [], []
    for _ in range(options.repeats):
        ours.append(run_fathom(options.fathom, path, options.threads, batch, options.context, flags))
        theirs.append(run_peer(peer_path, options.threads, batch, options.context))
    rows = []
    for what in ("decode", "prefill"):
        if batch > 1 and what == "prefill":
            continue
        a = statistics.median(r[what] for r in ours)
        b = statistics.median(r[what] for r in theirs)
        case = f"prefill of {options.context}" if what == "prefill" else f"decode at {options.context}"
        case += f", {batch} together" if batch > 1 else ""
        rows.append({"format": format_name, "case": case, "fathom": a, "llama.cpp": b, "ratio": a / b})
        name = "BF16 safetensors" if format_name == "safetensors" else format_name
        print(f"| {name} | {case} | {a:,.0f} | {b:,.0f} | {a / b:.2f} |", flush=True)
    return rows


def main():
    if sys.argv[1:2] == ["--peer-run"]:
        path, threads, batch, context = sys.argv[2], *map(int, sys.argv[3:6])
        print(json.dumps(Peer(path, threads, batch, context).measure(context)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fathom", default=str(REPOSITORY / "build/cpu-release/apps/fathom"))
    parser.add_argument("--formats", default="Q4_1,BF16,safetensors,Q8_0,Q4_K_M")
    parser.add_argument("--batches", default="1,8", help="batches above 1 are timed for decode alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--feature", action="append", default=[], help="as in `fathom bench one-batch --feature`")
    parser.add_argument("--json", help="append a line for each case to this file")
    options = parser.parse_args()
    print(f"{host()}, {options.threads} threads, medians of {options.repeats}, tokens/s\n")
    print("| format | case | fathom | llama.cpp | ratio |\n|---|---|---|---|---|")
    for format_name in options.formats.split(","):
        for batch in map(int, options.batches.split(",")):
            rows = compare(options, format_name, batch)
            if options.json:
                with open(options.json, "a") as out:
                    out.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Times FlashMLA's dense BF16 decode by fathom's method (fathom/testing/cuda/device_bench.h).

One CUDA graph over distinct caches and queries, L2 cold and clean, median of nine replays,
microseconds a call. Appends JSON lines: op, peer, case, heads, batch, seq, us (its plan made
beforehand), us_with_plan (made in each call). Needs sgl_kernel/flash_mla.py and
sgl_kernel/flashmla_ops.abi3.so of the package sglang-kernel on PYTHONPATH.
"""
import argparse

import torch
from sgl_kernel.flash_mla import flash_mla_with_kvcache, get_mla_metadata

from attention_shapes import DECODE
from graph_timer import COLD_BYTES, append_line, time_graph


def bench(heads, batch, seq, flush):
    copies = max(3, min(48, COLD_BYTES // (batch * seq * 1152)))
    pages = batch * seq // 64
    bf16 = {"device": "cuda", "dtype": torch.bfloat16}
    q = [torch.randn(batch, 1, heads, 576, **bf16) for _ in range(copies)]
    kv = [torch.randn(pages, 64, 1, 576, **bf16) for _ in range(copies)]
    lengths = torch.full((batch,), seq, dtype=torch.int32, device="cuda")
    table = torch.randperm(pages, device="cuda", dtype=torch.int32).view(batch, seq // 64)
    made = get_mla_metadata(lengths, heads, 1)

    def call(i, plan):
        meta, splits = get_mla_metadata(lengths, heads, 1) if plan else made
        flash_mla_with_kvcache(q[i % copies], kv[i % copies], table, lengths, 512, meta, splits,
                               softmax_scale=0.08, causal=True)

    nodes = max(copies, 24)
    return [time_graph(lambda i: call(i, plan), nodes, flush) for plan in (False, True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    flush = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
    for case, (heads, batch, seq) in DECODE.items():
        us, planned = bench(heads, batch, seq, flush)
        append_line(args.json, "mla_decode", "flashmla", case, us, heads=heads, batch=batch, seq=seq,
                    us_with_plan=round(planned, 3))


if __name__ == "__main__":
    main()

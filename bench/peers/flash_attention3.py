#!/usr/bin/env python3
"""Times FlashAttention-3 by fathom's method (fathom/testing/cuda/device_bench.h).

One CUDA graph over distinct buffers, L2 cold and clean, median of nine replays, microseconds a call. Keys and values
lie in one piece: the package is built without pages. mla_decode: absorbed, the latent as value and its rotary part as
key. Appends JSON lines: op, peer, case, us, device. Needs the package fa3-fwd 0.0.3 (its library of 105 MB packs to 9
by xz) on PYTHONPATH.
"""
import argparse
import json

import torch
from fa3_fwd_interface import flash_attn_func, flash_attn_with_kvcache

from graph_timer import distinct, time_graph

PREFILL = {  # H, Hkv, D, Dv, S
    "llama_8b_t1k": (32, 8, 128, 128, 1024), "llama_8b_t4k": (32, 8, 128, 128, 4096),
    "mla_t1k": (128, 128, 192, 128, 1024), "mla_t4k": (128, 128, 192, 128, 4096),
    "gpt_oss_t4k": (64, 8, 64, 64, 4096),
}
DECODE = ((1, 1024), (1, 4096), (1, 16384), (1, 65536), (8, 4096), (32, 4096), (128, 1024), (128, 4096))
PREFILL_NODES = 24  # as many as ours: a long chain meets the power limit


def prefill(H, Hkv, D, Dv, S, flush):
    sets = distinct(((1, S, H, D), (1, S, Hkv, D), (1, S, Hkv, Dv)), PREFILL_NODES)
    return time_graph(lambda i: flash_attn_func(*sets[i % len(sets)], causal=True), PREFILL_NODES, flush)


def mla_decode(heads, batch, seq, flush):
    sets = distinct(((batch, seq, 1, 576), (batch, 1, heads, 576)), 48)
    lengths = torch.full((batch,), seq, dtype=torch.int32, device="cuda")

    def work(i):
        latent, q = sets[i % len(sets)]
        flash_attn_with_kvcache(
            q[..., 512:], latent[..., 512:], latent[..., :512], qv=q[..., :512], cache_seqlens=lengths,
            softmax_scale=0.08, causal=True)

    return time_graph(work, max(len(sets), 24), flush)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", required=True)
    options = parser.parse_args()
    flush = torch.ones(64 << 20, device="cuda")
    device = torch.cuda.get_device_name()
    with open(options.json, "a", encoding="utf-8") as out:

        def line(op, case, us):
            record = {"op": op, "peer": "fa3", "case": case, "us": round(us, 3), "device": device}
            print(json.dumps(record), file=out, flush=True)

        for case, shape in PREFILL.items():
            line("mha_prefill", case, prefill(*shape, flush))
        for heads, who in ((16, "v3_tp8"), (128, "v3_whole")):
            for batch, seq in DECODE:
                line("mla_decode", f"{who}_b{batch}_s{seq}", mla_decode(heads, batch, seq, flush))


if __name__ == "__main__":
    main()

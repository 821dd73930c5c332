#!/usr/bin/env python3
"""Times FlashAttention-3 by fathom's method (fathom/testing/cuda/device_bench.h).

One CUDA graph over distinct buffers, L2 cold and clean, median of nine replays, microseconds a call. Keys and values
lie in one piece: the package is built without pages. mla_decode: absorbed, the latent as value and its rotary part as
key. Appends JSON lines: op, peer, case, us, device. Needs the package fa3-fwd 0.0.3 (its library of 105 MB packs to 9
by xz) on PYTHONPATH.
"""
import argparse

import torch
from fa3_fwd_interface import flash_attn_func, flash_attn_with_kvcache

from attention_shapes import DECODE, PREFILL, PREFILL_NODES
from graph_timer import append_line, distinct, time_graph


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
    for case, shape in PREFILL.items():
        append_line(options.json, "mha_prefill", "fa3", case, prefill(*shape, flush))
    for case, shape in DECODE.items():
        append_line(options.json, "mla_decode", "fa3", case, mla_decode(*shape, flush))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Times PyTorch's own kernels (cuBLASLt, cuDNN) by fathom's method (fathom/testing/cuda/device_bench.h).

One CUDA graph over distinct buffers, L2 cold and clean, median of nine replays, microseconds a call. Appends JSON
lines: op, peer, case, us, device. A kernel that this PyTorch lacks is left out. --case: those that match a
regular expression alone.
"""
import argparse
import re

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_shapes import PREFILL, PREFILL_NODES
from graph_timer import COLD_BYTES, append_line, distinct, random, time_graph

LAYERS = {  # N, K
    "2048_576": (576, 2048), "2048_2048": (2048, 2048), "2048_3072": (3072, 2048), "7168_2112": (2112, 7168),
    "4096_4096": (4096, 4096), "14336_4096": (4096, 14336), "4096_28672": (28672, 4096),
}
FEW_TOKEN_LAYERS = {
    "2048_576": (576, 2048), "2048_2048": (2048, 2048), "2048_3072": (3072, 2048), "4096_6144": (6144, 4096),
    "14336_4096": (4096, 14336), "2048_102400": (102400, 2048),
}
LLAMA_LAYERS = {"o": (4096, 4096), "up": (28672, 4096)}


def product(m, n, k, flush):
    copies = max(3, min(48, COLD_BYTES // (2 * n * k)))
    weights = [random(n, k) for _ in range(copies)]
    x, y = random(m, k), torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    return time_graph(lambda i: torch.matmul(x, weights[i % copies].t(), out=y), max(copies, 24), flush)


def prefill(H, Hkv, D, Dv, S, flush):
    sets = distinct(((1, H, S, D), (1, Hkv, S, D), (1, Hkv, S, Dv)), PREFILL_NODES)

    def work(i):
        q, k, v = sets[i % len(sets)]
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=H != Hkv)

    return time_graph(work, PREFILL_NODES, flush)


def products():
    """Cases of bf16_gemm: name and (M, N, K)."""
    for layers, tokens in ((LAYERS, (1, 8, 16)), (FEW_TOKEN_LAYERS, (32, 64, 128))):
        for layer, shape in layers.items():
            for m in tokens:
                yield f"decode_{layer}_m{m}", (m, *shape)
    for m in (32, 64, 128, 1024, 4096):
        for layer, shape in LLAMA_LAYERS.items():
            yield f"llama_8b_{layer}_m{m}", (m, *shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", required=True)
    parser.add_argument("--case", default=".*")
    options = parser.parse_args()
    flush = torch.ones(64 << 20, device="cuda")

    def time_all(op, peer, cases, work):
        for case, shape in cases:
            if re.fullmatch(options.case, case) is None:
                continue
            try:
                append_line(options.json, op, peer, case, work(*shape, flush))
            except RuntimeError as e:
                print(case, e)

    time_all("mha_prefill", "cudnn", PREFILL.items(), prefill)
    time_all("bf16_gemm", "cublaslt", products(), product)


if __name__ == "__main__":
    main()

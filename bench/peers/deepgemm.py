#!/usr/bin/env python3
"""Times DeepGEMM's FP8 block product by fathom's method (fathom/testing/cuda/device_bench.h).

One CUDA graph over distinct weight buffers, activations shared, L2 cold and clean, median of nine
replays, microseconds a node. Appends JSON lines: op, peer, case, m, n, k, us. Needs the packages
sgl-deep-gemm and apache-tvm-ffi on PYTHONPATH; shapes not done within --seconds are left out.
"""
import argparse
import sys
import time

import torch

from graph_timer import COLD_BYTES, append_line, time_graph

LAYERS = {
    "qkv_a": (2112, 7168), "q_b": (24576, 1536), "kv_b": (32768, 512), "o": (7168, 16384),
    "gate_up_dense_tp8": (4608, 7168), "down_dense_tp8": (7168, 2304), "shared_gu": (4096, 7168),
    "shared_down": (7168, 2048), "lm_tp8": (16160, 7168),
}


def fp8(*dims):
    return (torch.randn(*dims, device="cuda") * 16).to(torch.float8_e4m3fn)


def measure(deep_gemm, m, n, k, flush):
    copies = max(3, min(48, COLD_BYTES // (n * k)))
    weights = [fp8(n, k) for _ in range(copies)]
    weight_scales = torch.rand((n + 127) // 128, k // 128, device="cuda") / 16
    x = fp8(m, k)
    x_scale = (torch.rand(k // 128, (m + 3) // 4 * 4, device="cuda") / 16).t()[:m]
    y = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)

    def work(i):
        deep_gemm.fp8_gemm_nt(
            (x, x_scale), (weights[i % copies], weight_scales), y, disable_ue8m0_cast=True)

    return time_graph(work, max(copies, 24), flush)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", required=True)
    parser.add_argument("--tokens", default="1,8,32,128")
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    import deep_gemm

    begin = time.time()
    flush = torch.ones(64 << 20, device="cuda")
    for m in map(int, options.tokens.split(",")):
        for layer, (n, k) in LAYERS.items():
            if time.time() - begin > options.seconds:
                sys.exit("out of time")
            us = measure(deep_gemm, m, n, k, flush)
            append_line(options.json, "fp8_block_gemm", "deepgemm", f"{layer}_m{m}", us, m=m, n=n, k=k)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Times DeepGEMM's grouped products, gate-up and down alone, by fathom's method (fathom/testing/cuda/device_bench.h).

No routing, SwiGLU, quantisation or sum: less than grouped_moe does. Layouts: contiguous (each expert's rows side by
side, padded to DeepGEMM's alignment) and masked (each expert has room for the most rows of any). One CUDA graph over
distinct weights, L2 cold and clean, median of nine replays. Appends JSON lines: op, peer, case, us. Needs the packages
sgl-deep-gemm and apache-tvm-ffi on PYTHONPATH.
"""
import argparse
import json
import sys
import time

import torch

from graph_timer import time_graph
from moe_shapes import SHAPES, TOKENS, layers, route


def activations(shape, *dims):
    """Rows, with FP8's scales as DeepGEMM wants them: columns side by side."""
    x = torch.randn(*dims, device="cuda", dtype=torch.bfloat16)
    if not shape.fp8:
        return x
    scale = torch.rand(*dims[:-2], dims[-1] // 128, dims[-2], device="cuda") / 16
    return (x * 16).to(torch.float8_e4m3fn), scale.transpose(-1, -2)


def grouped(deep_gemm, shape, counts, layout):
    """f(x, weight, y) of one product, and the dimensions of rows before the last."""
    most = (max(counts) + 127) // 128 * 128
    if layout == "masked":
        masked, expected = torch.tensor(counts, dtype=torch.int32, device="cuda"), -(-sum(counts) // shape.experts)
        call = deep_gemm.m_grouped_fp8_fp4_gemm_nt_masked if shape.fp8 else deep_gemm.m_grouped_bf16_gemm_nt_masked
        return lambda x, w, y, **k: call(x, w, y, masked, expected, **k), (shape.experts, most)
    align = deep_gemm.get_mk_alignment_for_contiguous_layout()
    group_of = []
    for expert, count in enumerate(counts):
        padded = (count + align - 1) // align * align
        group_of += [expert] * padded
    group_of = torch.tensor(group_of, dtype=torch.int32, device="cuda")
    call = deep_gemm.m_grouped_fp8_fp4_gemm_nt_contiguous if shape.fp8 else deep_gemm.m_grouped_bf16_gemm_nt_contiguous
    return lambda x, w, y, **k: call(x, w, y, group_of, **k), (group_of.numel(),)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--once", action="store_true", help="run each case once: compiles the kernels")
    parser.add_argument("--cases", default=",".join(SHAPES))
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--layouts", default="contiguous,masked")
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    import deep_gemm

    begin = time.time()
    flush = torch.ones(64 << 20, device="cuda")
    for shape in (SHAPES[c] for c in options.cases.split(",")):
        all_layers = layers(shape)[:1 if options.once else None]
        for T in map(int, options.tokens.split(",")):
            counts = torch.bincount(route(shape, T).view(-1), minlength=shape.experts).tolist()
            for layout in options.layouts.split(","):
                if time.time() - begin > options.seconds:
                    sys.exit("out of time")
                product, rows = grouped(deep_gemm, shape, counts, layout)
                x, h = activations(shape, *rows, shape.hidden), activations(shape, *rows, shape.intermediate)
                both = torch.empty(*rows, 2 * shape.intermediate, device="cuda", dtype=torch.bfloat16)
                y = torch.empty(*rows, shape.hidden, device="cuda", dtype=torch.bfloat16)

                def work(i):
                    gate_up, gate_up_scale, down, down_scale = all_layers[i % len(all_layers)]
                    if shape.fp8:
                        product(x, (gate_up, gate_up_scale), both, disable_ue8m0_cast=True)
                        product(h, (down, down_scale), y, disable_ue8m0_cast=True)
                    else:
                        product(x, gate_up, both)
                        product(h, down, y)

                if options.once:
                    work(0)
                    torch.cuda.synchronize()
                    continue
                us = time_graph(work, max(len(all_layers), 24), flush)
                with open(options.json, "a") as out:
                    print(json.dumps({
                        "op": "grouped_moe", "peer": f"deepgemm {layout}, two products alone",
                        "case": f"{shape.case}_t{T}", "us": round(us, 3), "experts": sum(c > 0 for c in counts),
                        "device": torch.cuda.get_device_name()}), file=out)


if __name__ == "__main__":
    main()

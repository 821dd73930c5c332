#!/usr/bin/env python3
"""Times SGLang's fused MoE (its Triton kernels) by fathom's method (fathom/testing/cuda/device_bench.h).

The whole op from given expert ids, in SGLang's sequence: align, quantise, gate-up, SwiGLU, quantise, down, weighted
sum, with SGLang's own tuned configurations of the nearest shapes (no file has ours: several are tried, its default
among them, and the least time counts). The sum is SGLang's Triton kernel for any number of tokens. One CUDA graph
over distinct weights, L2 cold and clean, median of nine replays. Appends JSON lines: op, peer, case, config, us.

Needs the package sglang unpacked on PYTHONPATH (0.5.15: jit_kernel/ and the folder of its Triton MoE suffice) and
apache-tvm-ffi; what these files import of the rest of sglang is replaced below. --build compiles its CUDA kernels.
"""
import argparse
import functools
import importlib.util
import json
import os
import sys
import threading
import time
import types

import torch
import triton
import triton.language as tl

from graph_timer import time_graph
from moe_shapes import SHAPES, TOKENS, layers, route

TUNED = {  # files of configurations: experts, intermediate, device, FP8; None: SGLang's default
    "v3_tp8_tiled": ("E=257,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128]",
                     "E=256,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128]"),
    "v3_whole_tiled": (None, "E=257,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128]"),
    "v2_lite_tiled": (None, "E=64,N=1280,device_name=NVIDIA_H100_80GB_HBM3"),
}


def plain_decorator(fn=None, **_):
    return fn if fn is not None else lambda f: f


def load_sglang():
    """SGLang's kernels without its server. Returns them as a namespace."""
    root = next(p for p in (os.path.join(d, "sglang") for d in sys.path) if os.path.isdir(p))

    def module(name, **names):
        made = types.ModuleType(name)
        made.__path__ = [os.path.join(root, *name.split(".")[1:])]
        made.__dict__.update(names)
        sys.modules[name] = made

    def quantise(x, group):
        codes = torch.empty(x.shape, device=x.device, dtype=torch.float8_e4m3fn)
        scale = torch.empty(x.shape[0], x.shape[1] // group, device=x.device)
        quant.per_token_group_quant_8bit_v2(x, codes, scale, group, 1e-10, -448.0, 448.0)
        return codes, scale

    unused = {name: None for name in (
        "per_token_group_quant_fp8", "scaled_fp8_quant", "per_token_group_quant_int8", "per_token_quant_int8",
        "sglang_per_token_group_quant_int8")}
    module("sglang")
    module("sglang.utils", is_in_ci=lambda: False)
    module("sglang.kernel_api_logging", debug_kernel_api=plain_decorator)
    module("sglang.srt")
    module("sglang.srt.utils", is_cuda=lambda: True, is_hip=lambda: False, is_cpu=lambda: False,
           cpu_has_amx_support=lambda: False, get_bool_env_var=lambda *_: False, is_sm90_supported=lambda: True)
    module("sglang.srt.utils.custom_op", register_custom_op=plain_decorator)
    module("sglang.srt.batch_invariant_ops", is_batch_invariant_mode_enabled=lambda: False)
    module("sglang.srt.layers")
    module("sglang.srt.layers.moe")
    module("sglang.srt.layers.moe.utils", get_moe_padding_size=lambda *_: 0)
    module("sglang.srt.layers.quantization")
    module("sglang.srt.layers.quantization.fp8_kernel", sglang_per_token_group_quant_fp8=quantise, **unused)
    module("sglang.srt.layers.quantization.int8_kernel", **unused)
    from sglang.jit_kernel import activation, moe_align, per_token_group_quant_8bit_v2 as quant
    folder = os.path.join(root, "srt", "layers", "moe", "moe_runner", "triton_utils")
    spec = importlib.util.spec_from_file_location("triton_moe", os.path.join(folder, "fused_moe_triton_kernels.py"))
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    return types.SimpleNamespace(folder=folder, activation=activation, align=moe_align, quant=quant, kernels=kernels)


def build(sglang):
    makers = (lambda: sglang.align._jit_moe_align_module(torch.int32),
              lambda: sglang.activation._jit_activation_module(torch.bfloat16),
              lambda: sglang.quant._jit_module(torch.bfloat16, torch.float8_e4m3fn, True))
    threads = [threading.Thread(target=make) for make in makers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


@functools.lru_cache(maxsize=None)
def tuned(folder, name):
    configs = os.path.join(folder, "configs")
    for version in sorted(os.listdir(configs), key=lambda v: [int(x) for x in v.split("_")[1:]], reverse=True):
        path = os.path.join(configs, version, name + ".json")
        if os.path.exists(path):
            with open(path) as file:
                return {int(tokens): config for tokens, config in json.load(file).items()}
    return None


def config_of(sglang, shape, tokens, name):
    """(of gate-up, of down) as SGLang chooses them."""
    if name is None:
        if shape.fp8:
            one = dict(BLOCK_SIZE_M=64, BLOCK_SIZE_N=128, BLOCK_SIZE_K=128, GROUP_SIZE_M=32, num_warps=4, num_stages=3)
        elif tokens <= shape.experts:
            one = dict(BLOCK_SIZE_M=16, BLOCK_SIZE_N=32, BLOCK_SIZE_K=64, GROUP_SIZE_M=1)
        else:
            one = dict(BLOCK_SIZE_M=64, BLOCK_SIZE_N=64, BLOCK_SIZE_K=32, GROUP_SIZE_M=8)
        return one, dict(one)
    nearest = lambda configs: dict(configs[min(configs, key=lambda m: abs(m - tokens))])
    gate_up, of_down = nearest(tuned(sglang.folder, name)), tuned(sglang.folder, name + "_down")
    if of_down is None:
        return gate_up, dict(gate_up)
    return gate_up, dict(nearest(of_down), BLOCK_SIZE_M=gate_up["BLOCK_SIZE_M"])


def align(sglang, ids, block, experts):
    slots = ids.numel()
    most = slots * block if slots < experts + 1 else slots + (experts + 1) * (block - 1)
    integers = lambda n: torch.empty(n, device="cuda", dtype=torch.int32)
    order, expert_of_block, padded = integers(most), integers(triton.cdiv(most, block)), integers(1)
    sums = integers(experts + 2)
    sglang.align.moe_align_block_size(ids, experts + 1, block, order, expert_of_block, padded, sums, True)
    return order, expert_of_block, padded


def fused_moe(sglang, shape, x, ids, weights, layer, config):
    gate_up, gate_up_scale, down, down_scale = layer
    of_gate_up, of_down = config
    of_down = dict(of_down)
    tma = of_down.pop("USE_TMA", False)
    T, k, block = ids.shape[0], shape.top_k, of_gate_up["BLOCK_SIZE_M"]
    bf16 = lambda *dims: torch.empty(*dims, device="cuda", dtype=torch.bfloat16)
    route_of = align(sglang, ids, block, shape.experts)
    rows = T * k + (min(T * k, shape.experts + 1) * (block - 1) if tma else 0)
    common = dict(compute_type=tl.bfloat16, use_fp8_w8a8=shape.fp8, use_int8_w8a8=False, use_int8_w8a16=False,
                  use_int4_w4a16=False, per_channel_quant=False, block_shape=[128, 128] if shape.fp8 else None,
                  filter_expert=False)
    product = sglang.kernels.invoke_fused_moe_kernel
    both = bf16(rows, 2 * shape.intermediate)
    product(x, gate_up, None, both, None, gate_up_scale, None, weights, ids, *route_of, False, k, of_gate_up,
            c_sorted=tma, **common)
    h = bf16(rows, shape.intermediate)
    sglang.activation.silu_and_mul(both, h)
    slots, y = bf16(T, k, shape.hidden), bf16(T, shape.hidden)
    product(h, down, None, slots, None, down_scale, None, weights, ids, *route_of, True, 1, of_down,
            a_use_tma=tma, b_use_tma=tma, router_topk=k, **common)
    sglang.kernels.moe_sum_reduce_triton(slots, y, 1.0)
    return y


def check(shape, x, ids, weights, layer, y):
    """Relative error of a few tokens against BF16 products of dequantised weights."""
    gate_up, gate_up_scale, down, down_scale = layer
    full = lambda w, s: w.float() if s is None else w.float() * s.repeat_interleave(128, 0).repeat_interleave(128, 1)
    errors = []
    for t in range(min(2, x.shape[0])):
        want = 0
        for e, weight in zip(ids[t].tolist(), weights[t].tolist()):
            g, u = (full(gate_up[e], gate_up_scale[e] if shape.fp8 else None) @ x[t].float()).chunk(2)
            want += weight * (full(down[e], down_scale[e] if shape.fp8 else None) @ (torch.nn.functional.silu(g) * u))
        errors.append(((y[t].float() - want).norm() / want.norm()).item())
    return max(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--build", action="store_true", help="compile the CUDA kernels and end")
    parser.add_argument("--once", action="store_true", help="run each case once: compiles the Triton kernels")
    parser.add_argument("--cases", default=",".join(SHAPES))
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    sglang = load_sglang()
    if options.build:
        build(sglang)
        return
    begin = time.time()
    flush = torch.ones(64 << 20, device="cuda")
    for shape in (SHAPES[c] for c in options.cases.split(",")):
        all_layers = layers(shape)[:1 if options.once else None]
        for T in map(int, options.tokens.split(",")):
            x = torch.randn(T, shape.hidden, device="cuda", dtype=torch.bfloat16)
            ids, weights = route(shape, T), torch.rand(T, shape.top_k, device="cuda")
            for name in TUNED[shape.case]:
                if time.time() - begin > options.seconds:
                    sys.exit("out of time")
                config = config_of(sglang, shape, T, name)

                def work(i):
                    return fused_moe(sglang, shape, x, ids, weights, all_layers[i % len(all_layers)], config)

                error = check(shape, x, ids, weights, all_layers[0], work(0))
                if error > 0.1:
                    sys.exit(f"{shape.case} T = {T}: relative error {error}")
                if options.once:
                    continue
                us = time_graph(work, max(len(all_layers), 24), flush)
                line = json.dumps({"op": "grouped_moe", "peer": "sglang", "case": f"{shape.case}_t{T}",
                                   "config": name or "default", "us": round(us, 3), "error": round(error, 5),
                                   "experts": ids.unique().numel(),
                                   "device": torch.cuda.get_device_name()})
                with open(options.json, "a") as out:
                    print(line, file=out)


if __name__ == "__main__":
    main()

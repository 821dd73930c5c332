"""What the peers of grouped_moe share: the shapes of fathom/ops/moe/grouped_moe_case.cc, weights and routes."""
import itertools
from collections import namedtuple

import torch

Shape = namedtuple("Shape", "case experts top_k hidden intermediate fp8")
SHAPES = {s.case: s for s in (
    Shape("v3_tp8_tiled", 256, 8, 7168, 256, True), Shape("v2_lite_tiled", 64, 6, 2048, 1408, False),
    Shape("v3_whole_tiled", 256, 8, 7168, 2048, True))}
TOKENS = (1, 8, 32, 128, 1024, 4096)
COLD_BYTES = 400 << 20


def weight(shape, rows, columns):
    """[experts, rows, columns] of one random block of 16M elements, repeated."""
    dtype = torch.float8_e4m3fn if shape.fp8 else torch.bfloat16
    block = torch.randn(1 << 24, device="cuda") * (16 if shape.fp8 else columns ** -0.5)
    block = block.to(dtype).view(torch.uint8)
    all_ = torch.empty(shape.experts, rows, columns, device="cuda", dtype=dtype)
    flat = all_.view(-1).view(torch.uint8)
    for begin in range(0, flat.numel(), block.numel()):
        part = flat[begin:begin + block.numel()]
        part.copy_(block[:part.numel()])
    return all_


def block_scale(shape, rows, columns):
    return torch.rand(shape.experts, rows // 128, columns // 128, device="cuda") / 16 if shape.fp8 else None


def layers(shape):
    """Distinct copies of (gate_up, its scale, down, its scale), several times the L2 in all."""
    size = 3 * shape.experts * shape.hidden * shape.intermediate * (1 if shape.fp8 else 2)
    C, I = shape.hidden, shape.intermediate
    return [(weight(shape, 2 * I, C), block_scale(shape, 2 * I, C), weight(shape, C, I), block_scale(shape, C, I))
            for _ in range(max(3, min(48, COLD_BYTES // size)))]


# Distinct experts of a batch in fathom's cases, by (experts, tokens); other batches have nearly all.
DISTINCT = {(256, 8): 60, (256, 32): 165, (256, 128): 250, (64, 8): 35, (64, 32): 59}


def route(shape, tokens):
    """Distinct experts of each token, uniform, as many in all as fathom's case has: ids [tokens, top_k], ascending."""
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        ids = torch.rand(tokens, shape.experts, generator=generator).argsort(dim=1)[:, :shape.top_k].sort(dim=1).values
        if DISTINCT.get((shape.experts, tokens)) in (None, ids.unique().numel()):
            return ids.to(torch.int32).cuda()

#!/usr/bin/env python3
"""Long goldens of the tiny DeepSeek checkpoints: usage make_long_goldens.py tests/model/data

Adds long.safetensors to each deepseek_* directory: a prompt of 3000 tokens, the logits of a few of its positions and
16 greedy tokens, as transformers computes them in float32 from the weights that lie there. Needs torch, transformers,
safetensors.
"""
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

import make_tiny_deepseek as deepseek
import make_tiny_model as tiny

LENGTH = 3000
POSITIONS = (0, 511, 512, 1023, 2047, 2999)
GREEDY = 16


def load(directory):
    model = deepseek.build(deepseek.CHECKPOINTS[directory.name], 1)
    weights = load_file(directory / "model.safetensors")
    with torch.no_grad():
        for whole, tensor in model.state_dict().items():
            for key, part in deepseek.per_expert(whole, tensor):
                part.copy_(weights.pop(key))
    assert not weights, f"left over: {sorted(weights)}"
    return model


@torch.no_grad()
def golden(model, seed):
    """The golden tensors, or None when a greedy choice is too close to call."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, model.config.vocab_size, (1, LENGTH), generator=random)
    out = model(ids, use_cache=True)
    rows = out.logits[0, list(POSITIONS)].clone()
    prompt, greedy, last, cache = ids[0].clone(), [], out.logits[0, -1], out.past_key_values
    for _ in range(GREEDY):
        top = torch.topk(last, 2).values
        if top[0] - top[1] < tiny.LEAST_GAP:
            return None
        greedy.append(int(last.argmax()))
        last = model(torch.tensor([[greedy[-1]]]), past_key_values=cache, use_cache=True).logits[0, -1]
    return {
        "prompt": prompt.to(torch.int32),
        "positions": torch.tensor(POSITIONS, dtype=torch.int32),
        "logits": rows.contiguous(),
        "greedy": torch.tensor(greedy, dtype=torch.int32),
    }


def main():
    for directory in sorted(pathlib.Path(sys.argv[1]).glob("deepseek_*")):
        model = load(directory)
        seed, tensors = next((s, t) for s in range(1, 100) if (t := golden(model, s)) is not None)
        save_file(tensors, directory / "long.safetensors")
        print(f"{directory.name}: seed {seed}", flush=True)


if __name__ == "__main__":
    main()

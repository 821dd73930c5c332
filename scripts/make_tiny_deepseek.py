#!/usr/bin/env python3
"""Makes the tiny DeepSeek checkpoints of tests/model/data: usage make_tiny_deepseek.py OUT_DIR

As make_tiny_model.py, for V2-Lite (no query rank, free softmax gate), V2 (groups by maximum) and V3 (sigmoid, bias,
groups by their two best, YaRN). Needs torch, transformers, safetensors.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

import make_tiny_model as tiny

COMMON = dict(
    tiny.COMMON, num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=32, qk_nope_head_dim=16,
    qk_rope_head_dim=8, v_head_dim=12, moe_intermediate_size=24, num_hidden_layers=3, first_k_dense_replace=1,
    rms_norm_eps=1e-6, n_routed_experts=8,
)
YARN = dict(
    rope_type="yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=32, beta_slow=1, mscale=0.707,
    mscale_all_dim=0.707,
)

CHECKPOINTS = {
    "deepseek_v2_lite": dict(
        family="deepseek_v2", spelling=4, yarn=True,
        changes=dict(
            q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=3, n_group=1, topk_group=1, topk_method="greedy",
            routed_scaling_factor=1.0, norm_topk_prob=False,
        ),
    ),
    "deepseek_v2": dict(
        family="deepseek_v2", spelling=4, yarn=False,
        changes=dict(
            q_lora_rank=20, n_shared_experts=2, num_experts_per_tok=3, n_group=4, topk_group=2,
            topk_method="group_limited_greedy", routed_scaling_factor=4.0, norm_topk_prob=False,
        ),
    ),
    "deepseek_v3": dict(
        family="deepseek_v3", spelling=5, yarn=True,
        changes=dict(
            q_lora_rank=20, n_shared_experts=1, num_experts_per_tok=3, n_group=4, topk_group=2,
            routed_scaling_factor=2.5, norm_topk_prob=True,
        ),
        only_in_file=dict(topk_method="noaux_tc", scoring_func="sigmoid", moe_layer_freq=1),
    ),
}

CLASSES = {
    "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
    "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM),
}


def build(recipe, seed):
    config_class, model_class = CLASSES[recipe["family"]]
    rope = dict(YARN if recipe["yarn"] else {"rope_type": "default"}, rope_theta=10000.0)
    config = config_class(**{**COMMON, **recipe["changes"], "rope_parameters": rope, "attn_implementation": "eager"})
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if "rotary" in name or "inv_freq" in name:
                continue
            centre, deviation = (1.0, 0.1) if name.endswith("norm.weight") else (0.0, 0.2)
            if name.endswith("e_score_correction_bias"):
                centre, deviation = -0.6, 0.2  # biased scores on both sides of zero
            tensor.copy_((centre + deviation * torch.randn_like(tensor)).bfloat16().float())
    return model


def per_expert(name, tensor):
    """The checkpoint's tensors of one of the model's: experts apart, gate and up apart."""
    if name.endswith("experts.gate_up_proj"):
        for e, both in enumerate(tensor):
            gate, up = both.chunk(2)
            yield name.replace("gate_up_proj", f"{e}.gate_proj.weight"), gate
            yield name.replace("gate_up_proj", f"{e}.up_proj.weight"), up
    elif name.endswith("experts.down_proj"):
        for e, down in enumerate(tensor):
            yield name.replace("down_proj", f"{e}.down_proj.weight"), down
    else:
        yield name, tensor


def config_json(recipe, model):
    config = {**COMMON, **recipe["changes"], **recipe.get("only_in_file", {})}
    config.update(architectures=[type(model).__name__], model_type=recipe["family"])
    if recipe["spelling"] == 5:
        rope = YARN if recipe["yarn"] else {"rope_type": "default"}
        config.update(rope_parameters=dict(rope, rope_theta=10000.0), dtype="bfloat16")
    else:
        scaling = {("type" if key == "rope_type" else key): value for key, value in YARN.items()}
        config.update(rope_theta=10000.0, rope_scaling=scaling if recipe["yarn"] else None, torch_dtype="bfloat16")
    return config


def make(name, recipe, out):
    for seed in range(1, 100):
        model = build(recipe, seed)
        golden = tiny.goldens(model, seed)
        if golden is not None:
            break
    directory = out / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    weights = {
        key: (part if key.endswith("bias") else part.bfloat16()).contiguous().clone()
        for whole, tensor in model.state_dict().items()
        for key, part in per_expert(whole, tensor)
    }
    save_file(weights, directory / "model.safetensors")
    save_file(golden, directory / "golden.safetensors")
    (directory / "config.json").write_text(json.dumps(config_json(recipe, model), indent=1) + "\n")
    print(f"{name}: seed {seed}")


def main():
    for name, recipe in CHECKPOINTS.items():
        make(name, recipe, pathlib.Path(sys.argv[1]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes the tiny checkpoints of tests/model/data and their goldens: usage make_tiny_model.py OUT_DIR

Each checkpoint is a directory with config.json, random weights and golden.safetensors, which holds what
transformers computes from the same weights in float32: for each prompt i its ids (prompt_i), the logits of
every position (logits_i) and 64 greedy tokens (greedy_i). Needs torch, transformers, safetensors.
"""
import json
import pathlib
import shutil
import struct
import sys

import numpy
import torch
import transformers
from safetensors.torch import save_file

PROMPT_LENGTHS = (5, 17, 70)
GREEDY = 64
# Greedy tokens are a golden only where no two logits are close enough for rounding to swap them.
LEAST_GAP = 2e-3
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

COMMON = dict(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    max_position_embeddings=256,
    hidden_act="silu",
    bos_token_id=0,
    eos_token_id=1,
)

# name -> family, dtype, what differs from COMMON, shards, spelling of the config (4 or 5), GGUF twin
CHECKPOINTS = {
    "llama_bf16": dict(
        family="llama", dtype="bfloat16", spelling=4,
        changes=dict(num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0),
    ),
    "llama3_f32": dict(
        family="llama", dtype="float32", spelling=5, gguf=True,
        changes=dict(
            num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, rope_theta=5000.0,
            rope_scaling=dict(
                rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
    ),
    "llama_bias_f16": dict(
        family="llama", dtype="float16", spelling=4,
        changes=dict(
            num_attention_heads=3, num_key_value_heads=3, rms_norm_eps=1e-5, rope_theta=10000.0,
            attention_bias=True, mlp_bias=True,
        ),
    ),
    "smollm2_bf16_tied": dict(
        family="llama", dtype="bfloat16", spelling=4, gguf=True,
        changes=dict(
            num_attention_heads=9, num_key_value_heads=3, head_dim=8, hidden_size=72, rms_norm_eps=1e-5,
            rope_theta=100000.0, tie_word_embeddings=True,
        ),
    ),
    "qwen2_bf16_sharded": dict(
        family="qwen2", dtype="bfloat16", spelling=4, shards=3,
        changes=dict(
            num_attention_heads=7, num_key_value_heads=1, hidden_size=56, rms_norm_eps=1e-6, rope_theta=1e6,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3_f32": dict(
        family="qwen3", dtype="float32", spelling=5,
        changes=dict(
            num_attention_heads=6, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6, rope_theta=1e6,
        ),
    ),
}

CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


def build(recipe, seed):
    """A model in float32 whose weights are exact in the checkpoint's dtype."""
    config_class, model_class = CLASSES[recipe["family"]]
    changes = dict(recipe["changes"])
    theta, scaling = changes.pop("rope_theta"), changes.pop("rope_scaling", None)
    rope = dict(scaling or {"rope_type": "default"}, rope_theta=theta)
    config = config_class(**{**COMMON, **changes, "rope_parameters": rope, "attn_implementation": "eager"})
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            centre, deviation = (1.0, 0.1) if name.endswith("norm.weight") else (0.0, 0.2)
            tensor.copy_((centre + deviation * torch.randn_like(tensor)).to(DTYPES[recipe["dtype"]]).float())
    return model


def goldens(model, seed):
    """The golden tensors, or None when a greedy choice is too close to call."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for i, length in enumerate(PROMPT_LENGTHS):
        prompt = torch.randint(0, model.config.vocab_size, (1, length), generator=random)
        with torch.no_grad():
            logits = model(prompt).logits[0]
            ids = prompt
            for _ in range(GREEDY):
                last = model(ids).logits[0, -1]
                top = torch.topk(last, 2).values
                if top[0] - top[1] < LEAST_GAP:
                    return None
                ids = torch.cat([ids, last.argmax().view(1, 1)], dim=1)
        tensors[f"prompt_{i}"] = prompt[0].to(torch.int32)
        tensors[f"logits_{i}"] = logits.contiguous()
        tensors[f"greedy_{i}"] = ids[0, length:].to(torch.int32)
    return tensors


def config_json(recipe, model):
    """config.json with only what the engine may rely on, in the spelling of transformers 4 or 5."""
    changes = dict(recipe["changes"])
    theta, scaling = changes.pop("rope_theta"), changes.pop("rope_scaling", None)
    config = {**COMMON, **changes, "architectures": [type(model).__name__], "model_type": recipe["family"]}
    if recipe["spelling"] == 5:
        config["rope_parameters"] = dict(scaling or {"rope_type": "default"}, rope_theta=theta)
        config["dtype"] = recipe["dtype"]
    else:
        config["rope_theta"] = theta
        config["rope_scaling"] = scaling
        config["torch_dtype"] = recipe["dtype"]
    return config


def save_weights(directory, weights, shards):
    if shards == 1:
        save_file(weights, directory / "model.safetensors")
        return
    names = sorted(weights)
    index = {}
    for s in range(shards):
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[s::shards]}
        save_file(part, directory / file)
        index.update({name: file for name in part})
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index}, indent=1)
    )


def gguf_name(name):
    for hf, gguf in (
        ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
        ("model.layers.", "blk."), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ):
        name = name.replace(hf, gguf)
    return name


def to_adjacent_pairs(weight, heads):
    """Rows of q or k as GGUF files of the llama architecture have them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensors(model):
    config = model.config
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.float().numpy()
        if ".q_proj." in name:
            weight = to_adjacent_pairs(weight, config.num_attention_heads)
        if ".k_proj." in name:
            weight = to_adjacent_pairs(weight, config.num_key_value_heads)
        yield gguf_name(name), numpy.ascontiguousarray(weight)
    if config.rope_parameters["rope_type"] == "llama3":
        plain = config.rope_parameters["rope_theta"] ** (
            -torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        )
        scaled = model.model.rotary_emb.inv_freq.double()
        yield "rope_freqs.weight", (plain / scaled).float().numpy()


def save_gguf(path, recipe, model):
    """GGUF version 3: matrices in BF16 or F32 (whichever holds them exactly), vectors in F32."""
    config = model.config

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    values = [("general.architecture", 8, text("llama"))]
    for key, number in (
        ("block_count", config.num_hidden_layers), ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size), ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads), ("attention.key_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ):
        values.append((f"llama.{key}", 4, struct.pack("<I", number)))
    values.append(("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", config.rms_norm_eps)))
    values.append(("llama.rope.freq_base", 6, struct.pack("<f", config.rope_parameters["rope_theta"])))
    infos, data = b"", b""
    tensors = list(gguf_tensors(model))
    for name, weight in tensors:
        half = weight.ndim == 2 and recipe["dtype"] == "bfloat16"
        raw = (weight.view(numpy.uint32) >> 16).astype(numpy.uint16) if half else weight
        infos += text(name) + struct.pack("<I", weight.ndim)
        infos += b"".join(struct.pack("<Q", n) for n in reversed(weight.shape))
        infos += struct.pack("<IQ", 30 if half else 0, len(data))
        data += raw.tobytes()
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    head += b"".join(text(key) + struct.pack("<I", kind) + value for key, kind, value in values) + infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def make(name, recipe, out):
    for seed in range(1, 100):
        model = build(recipe, seed)
        golden = goldens(model, seed)
        if golden is not None:
            break
    directory = out / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    dtype = DTYPES[recipe["dtype"]]
    weights = {
        key: tensor.to(dtype).contiguous()
        for key, tensor in model.state_dict().items()
        if not (key == "lm_head.weight" and model.config.tie_word_embeddings)
    }
    save_weights(directory, weights, recipe.get("shards", 1))
    save_file(golden, directory / "golden.safetensors")
    (directory / "config.json").write_text(json.dumps(config_json(recipe, model), indent=1) + "\n")
    if recipe.get("gguf"):
        save_gguf(directory / "model.gguf", recipe, model)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: seed {seed}, {size} bytes")


def main():
    out = pathlib.Path(sys.argv[1])
    for name, recipe in CHECKPOINTS.items():
        make(name, recipe, out)


if __name__ == "__main__":
    main()

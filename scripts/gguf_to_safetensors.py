#!/usr/bin/env python3
"""Writes a Llama model in GGUF, tensors F32, F16 or BF16, as the directory of safetensors that it was made from:
config.json and model.safetensors, without a tokenizer. For comparing the two formats on the same numbers.

  scripts/gguf_to_safetensors.py MODEL.gguf DIRECTORY
"""
import json
import struct
import sys
from pathlib import Path

import numpy

DTYPES = {0: ("F32", numpy.float32), 1: ("F16", numpy.uint16), 30: ("BF16", numpy.uint16)}
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Gguf:
    def __init__(self, path):
        self.data, self.at = path.read_bytes(), 8
        tensors, keys = self.scalar("Q"), self.scalar("Q")
        self.meta = {self.text(): self.value(self.scalar("I")) for _ in range(keys)}
        entries = [self.entry() for _ in range(tensors)]
        start = -(-self.at // 32) * 32
        self.tensors = {}
        for name, shape, kind, offset in entries:
            dtype, element = DTYPES[kind]
            count = int(numpy.prod(shape))
            flat = numpy.frombuffer(self.data, element, count, start + offset)
            self.tensors[name] = (dtype, flat.reshape(shape[::-1]))

    def scalar(self, code):
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def text(self):
        n = self.scalar("Q")
        self.at += n
        return self.data[self.at - n : self.at].decode(errors="replace")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.scalar("I"), self.scalar("Q")
            return [self.value(kind) for _ in range(n)]
        return self.scalar(SCALARS[kind])

    def entry(self):
        name, rank = self.text(), self.scalar("I")
        shape = [self.scalar("Q") for _ in range(rank)]
        return name, shape, self.scalar("I"), self.scalar("Q")


def plain_name(name):
    if name.startswith("blk."):
        _, layer, stem, _ = name.split(".")
        return f"model.layers.{layer}.{NAMES[stem]}.weight"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}.get(
        name, "lm_head.weight"
    )


def halves_apart(matrix, heads):
    """GGUF interleaves the two halves of a head that rope pairs; the other format keeps them apart."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main():
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    gguf = Gguf(source)
    fact = lambda key: gguf.meta[f"llama.{key}"]
    heads, kv_heads = fact("attention.head_count"), fact("attention.head_count_kv")
    tied = "output.weight" not in gguf.tensors
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fact("embedding_length"),
        "intermediate_size": fact("feed_forward_length"),
        "num_hidden_layers": fact("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": len(gguf.meta["tokenizer.ggml.tokens"]),
        "max_position_embeddings": fact("context_length"),
        "rms_norm_eps": fact("attention.layer_norm_rms_epsilon"),
        "rope_theta": gguf.meta.get("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }
    header, chunks, at = {}, [], 0
    for name, (dtype, values) in gguf.tensors.items():
        if ".attn_q." in name or ".attn_k." in name:
            values = halves_apart(values, heads if ".attn_q." in name else kv_heads)
        chunks.append(values.tobytes())
        end = at + len(chunks[-1])
        header[plain_name(name)] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(config, indent=1))
    with open(target / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for chunk in chunks:
            out.write(chunk)


if __name__ == "__main__":
    main()

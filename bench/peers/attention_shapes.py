"""Which attention the peers are timed with: fathom's cases of mha_prefill and mla_decode, by name."""

PREFILL = {  # H, Hkv, D, Dv, S
    "llama_8b_t1k": (32, 8, 128, 128, 1024), "llama_8b_t4k": (32, 8, 128, 128, 4096),
    "mla_t1k": (128, 128, 192, 128, 1024), "mla_t4k": (128, 128, 192, 128, 4096),
    "gpt_oss_t4k": (64, 8, 64, 64, 4096),
}
PREFILL_NODES = 24  # as many as ours: a long chain meets the power limit

DECODE = {  # heads, batch, keys
    f"{who}_b{batch}_s{seq}": (heads, batch, seq)
    for heads, who in ((16, "v3_tp8"), (128, "v3_whole"))
    for batch, seq in ((1, 1024), (1, 4096), (1, 16384), (1, 65536), (8, 4096), (32, 4096), (128, 1024), (128, 4096),
                       (128, 16384))
}

"""Trains small tokenizers with the pipelines of the public model families, as tokenizer.json objects."""
import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import AddedToken, Regex

from mixed_text import MixedText

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]


def split(regex):
    return pre_tokenizers.Split(Regex(regex), "isolated")


def byte_level(use_regex=False, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def train(pre_tokenizer, normalizer, texts, size, alphabet, specials):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False, limit_alphabet=300))
    tokenizer.add_tokens([
        AddedToken("<tool>", normalized=False), AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("<w>", single_word=True, normalized=True)])
    return tokenizer


def byte_level_family(texts, size, steps, normalizer=None):
    chain = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer = train(chain, normalizer, texts, size, pre_tokenizers.ByteLevel.alphabet(), SPECIALS)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def as_json(tokenizer, **model):
    data = json.loads(tokenizer.to_str())
    data["model"].update(model)
    return data


def llama2(texts, size):
    """Trained in words, then run as Llama 2 does: no pre-tokenizer, spaces replaced by the normalizer, bytes to fall
    back on."""
    tokenizer = train(pre_tokenizers.Metaspace(), None, texts, size, [], ["<unk>", "<s>", "</s>"] + BYTES)
    data = as_json(tokenizer, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    data["pre_tokenizer"] = None
    data["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    data["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    data["post_processor"] = {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    return data


def mistral(texts, size):
    """As Llama 2 with the newer spelling: a Metaspace that prepends at the start of the text only."""
    data = llama2(texts, size)
    data["normalizer"] = None
    data["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return data


def odd(texts, size):
    """Components that the families do not use."""
    normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"q+u?"), "Q"),
        normalizers.NFD()])
    steps = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Split("e", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[aou]+"), "contiguous"), pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)])
    tokenizer = train(steps, normalizer, texts, size, [], ["<unk>"] + SPECIALS)
    tokenizer.decoder = decoders.Metaspace()
    return as_json(tokenizer, unk_token="<unk>")


def families(size, training_bytes):
    texts = MixedText(1).records(training_bytes, specials=None)
    template = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 3), ("</s>", 4)])
    llama3 = byte_level_family(texts, size, [split(LLAMA3), byte_level()])
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return {
        "gpt2": as_json(byte_level_family(texts, size, [byte_level(True, True)])),
        "smollm2": as_json(byte_level_family(
            texts, size, [pre_tokenizers.Digits(individual_digits=True), byte_level(True)])),
        "llama3": as_json(llama3, ignore_merges=True),
        "qwen2": as_json(byte_level_family(texts, size, [split(QWEN2), byte_level()], normalizers.NFC())),
        "deepseek_v3": as_json(byte_level_family(
            texts, size, [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level()])),
        "o200k": as_json(byte_level_family(texts, size, [split(O200K), byte_level()])),
        "llama2": llama2(texts, size),
        "mistral": mistral(texts, size),
        "odd": odd(texts, size),
    }

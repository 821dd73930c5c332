"""Seeded text to hold tokenizers against each other: many scripts, code, emoji, control characters, broken bytes."""
import inspect
import random

SENTENCES = [
    "The quick brown fox doesn't jump; it's tired, they've said. I'M HERE, you'll see! We'd won't",
    "Der Bär läuft über die Straße, während Ärger und Öl fließen.",
    "Où êtes-vous né ? L’été dernier, j’ai vu « Noël » à la plage.",
    "¿Dónde está la niña? ¡Qué pingüino más rápido!",
    "Привет, как дела? Съешь же ещё этих мягких французских булок.",
    "Γειά σου Κόσμε, πώς είσαι σήμερα;",
    "今天天气很好，我们去公园散步吧。数字：１２３４。",
    "日本語の文章です。カタカナとひらがな、漢字も混ざっています。",
    "안녕하세요 세계! 한국어 문장입니다.",
    "مرحبا بالعالم، كيف حالك اليوم؟ ١٢٣",
    "שלום עולם, מה שלומך היום?",
    "नमस्ते दुनिया, आप कैसे हैं? १२३",
    "สวัสดีชาวโลก วันนี้อากาศดีมาก",
    "Xin chào thế giới, hôm nay trời đẹp quá",
    "İstanbul'da ılık bir gün; ŞIĞ ve ışık. Dž ǅ ǆ",
    "e\u0301 a\u030a n\u0303 ﬁ ﬃ ① ² Å Ω K ſ ẞ Ǆ",
    "Price: $1,234.56 (€99.99) + 10% = 3.14159e-10; 0x1F, 1_000_000, 12345678",
    "x\u00a0y\u2009z\u3000w\u180e\u200b\u200d\ufeff\u2028\u2029\u0085end",
]
EMOJI = ["🙂", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "1️⃣", "🤖💥"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "        ", "\n\n\n   ", "\u3000", " \t\n"]
RANGES = [
    (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0xFFF),
    (0x1100, 0x11FF), (0x1E00, 0x22FF), (0x2460, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xF900, 0xFFEF), (0x10000, 0x100FF), (0x1D400, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF),
]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<tool>", " <mask> ", "word<w>word", "<w>"]


def code_lines():
    """Python source that every machine with Python has."""
    import argparse, json.encoder, random as module, textwrap
    text = "".join(inspect.getsource(m) for m in (argparse, json.encoder, module, textwrap))
    return [line + "\n" for line in text.split("\n")]


class MixedText:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.code = code_lines()

    def words(self):
        parts = self.random.choice(SENTENCES).split(" ")
        self.random.shuffle(parts)
        return " ".join(parts[: self.random.randint(1, 8)])

    def characters(self):
        low, high = self.random.choice(RANGES)
        return "".join(chr(self.random.randint(low, high)) for _ in range(self.random.randint(1, 12)))

    def bytes(self):
        return self.random.randbytes(self.random.randint(1, 12)).decode("utf-8", "replace")

    def source(self):
        at = self.random.randrange(len(self.code) - 6)
        return "".join(self.code[at : at + self.random.randint(1, 6)])

    def piece(self, specials):
        draw = self.random.random()
        if draw < 0.40:
            return self.words()
        if draw < 0.60:
            return self.source()
        if draw < 0.70:
            return self.characters()
        if draw < 0.76:
            return self.bytes()
        if draw < 0.82:
            return self.random.choice(EMOJI)
        if draw < 0.86:
            return "".join(chr(self.random.randint(0, 0x1F)) for _ in range(3))
        if draw < 0.90:
            return str(self.random.randint(0, 10 ** self.random.randint(1, 12)))
        if draw < 0.93:
            return self.random.choice("ab-= \n") * self.random.randint(2, 80)
        return self.random.choice(specials) if specials else self.words()

    def record(self, size, specials=SPECIALS):
        text = ""
        while len(text) < size:
            text += self.piece(specials) + self.random.choice(SPACES + [" "] * 10 + [""] * 4)
        return text

    def records(self, total_bytes, size=2000, specials=SPECIALS):
        made, records = 0, []
        while made < total_bytes:
            records.append(self.record(self.random.randint(1, 2 * size), specials))
            made += len(records[-1].encode())
        return records

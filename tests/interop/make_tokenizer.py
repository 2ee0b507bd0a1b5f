#!/usr/bin/env python3
"""Writes tests/data/tokenizer: a small vocabulary in CLIP's format, and prompts with the numbers that
transformers' CLIPTokenizer gives them.

    python3 tests/interop/make_tokenizer.py [VOCABULARY]      from the root of the tree; needs: transformers 5

With VOCABULARY, a folder with a vocab.json and merges.txt such as a model's, only prints the prompts'
numbers, one line each, to compare with other vocabularies than the small one.
"""
import collections
import json
import os
import random
import sys

from transformers import CLIPTokenizer

PROMPTS = [
    "",
    " ",
    "a photo of a cat",
    "A  Photo\tof\n\na CAT ",
    "masterpiece, best quality, (detailed:1.2), [bad], 8k!!! <lora:x:0.8>",
    "don't they're I'm we'll he'd it's John's 'tis 'S 'RE ''s '",
    "it'sa rock'n'roll !'s ''ve",
    "1990s 12345 3.14 ½ Ⅷ ٣٤ x2",
    "café naïve Ünïcödé ÀÉÎÕÜ ß ſ ŒUVRE",
    "Ελληνικά ΣΟΦΟΣ ΟΔΥΣΣΕΥΣ",
    "привет МИР 日本語の写真 한국어 中文 ไทย हिन्दी العربية",
    "İstanbul ıI Ⱥ ẞ K Å",
    "emoji 🐈‍⬛ 👩🏽‍🎨 ❤️ ™ © €",
    "no\u00a0break\u2003space\u3000wide\u200bzero\u00adsoft\ufeffbom",
    "control \x01\x1c\x1f\x7f\x85 done",
    "under_score semi;colon back\\slash \"quotes\" a--b ...",
    "the quick brown fox jumps over the lazy dog " * 4,
    "a <|endoftext|> b<|startoftext|>c <|ENDOFTEXT|> !<|endoftext|>!",
    "aaaaaaaaaaaaaaaaaaaaaaaa bananabananabanana thethethe",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐐀𐐨 ﬁ ǅ Ა ა",
    "combining g̃ q̈ ̀start",
]


def byte_characters():
    visible = [b for b in range(256) if 32 < b < 127 or (b > 160 and b != 173)]
    others = [b for b in range(256) if b not in visible]
    return {**{b: chr(b) for b in visible}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def learn(count):
    """Merges by frequency in the prompts' words, as byte-pair encodings are learned."""
    letters = byte_characters()
    words = collections.Counter()
    for prompt in PROMPTS:
        for word in prompt.lower().split():
            symbols = [letters[b] for b in word.encode()]
            symbols[-1] += "</w>"
            words[tuple(symbols)] += 1
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        joined = collections.Counter()
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                both = i + 1 < len(word) and word[i : i + 2] == best
                out.append("".join(best) if both else word[i])
                i += 2 if both else 1
            joined[tuple(out)] += n
        words = joined
    return merges


def random_prompts(count):
    """Anything Unicode has, but for what NFC would change or what no text has."""
    import unicodedata

    rng = random.Random(5)
    for _ in range(count):
        out = ""
        while len(out) < 12:
            c = chr(rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x250, 0x3000), rng.randrange(0x10000)]))
            if unicodedata.category(c) in ("Cs", "Cn") or unicodedata.normalize("NFC", out + c) != out + c:
                continue
            out += c
        yield out


if len(sys.argv) == 2:
    tokenizer = CLIPTokenizer.from_pretrained(sys.argv[1])
    for p in PROMPTS:
        print(*tokenizer(p, truncation=True, max_length=77, padding="max_length")["input_ids"])
    sys.exit()

merges = learn(180)
single = list(byte_characters().values())
tokens = single + [c + "</w>" for c in single] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
vocab = {}
for token in tokens:
    vocab.setdefault(token, len(vocab))
folder = "tests/data/tokenizer"
os.makedirs(folder, exist_ok=True)
with open(folder + "/vocab.json", "w") as f:
    json.dump(vocab, f, ensure_ascii=False)
with open(folder + "/merges.txt", "w") as f:
    f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))

cases = []
prompts = PROMPTS + list(random_prompts(60))
for pad in ("<|endoftext|>", "!"):
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad)
    for p in prompts if pad != "!" else PROMPTS[:3]:
        whole = tokenizer(p)["input_ids"]
        ids = tokenizer(p, truncation=True, max_length=77, padding="max_length")["input_ids"]
        filled = min(len(whole), 77)
        assert set(ids[filled:]) <= {vocab[pad]}
        # What is cut off, and what pads, need not be written down.
        cases.append({"prompt": p, "pad": vocab[pad], "lost": len(whole) - filled, "ids": ids[:filled]})
with open(folder + "/cases.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")

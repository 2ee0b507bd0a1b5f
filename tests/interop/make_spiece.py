#!/usr/bin/env python3
"""Writes tests/data/spiece: a small spiece.model with SentencePiece's usual normalisation (nmt_nfkc), what
SentencePiece makes of texts that are hard on it, and a tokenizer.json with a smaller table of characters.

    python3 tests/interop/make_spiece.py [FOLDER]        from the root of the tree; needs: sentencepiece, protobuf,
                                                         tokenizers, transformers

In FOLDER: spiece.model; cases.json, texts and their numbers by sentencepiece, checked against transformers'
T5Tokenizer; json/tokenizer.json and json/cases.json, by tokenizers.
"""
import base64
import io
import json
import os
import sys
import tempfile

import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

OUT = sys.argv[1] if len(sys.argv) > 1 else "tests/data/spiece"
PROMPTS = [case["prompt"] for case in json.load(open("tests/data/tokenizer/cases.json"))]
CORPUS = [p for p in PROMPTS if p.isascii()] + [
    "a photo of a cat", "the official finest fluffy file", "café crème, naïve façade, Ångström", "1/2 of 3 kilograms",
    "Привет, мир", "カタカナ", "한국어"]
HARD = [
    "", " ", "cat", "  a   cat  ", "\ta\tcat\n", "a\ncat\r\nof\n\n", "ｆｕｌｌ－ｗｉｄｔｈ　ｐｈｏｔｏ", "ﬁne oﬃcial ﬂuﬀ",
    "cafe\u0301 cre\u0300me nai\u0308ve", "A\u030angstro\u0308m", "e\u0323\u0302 e\u0302\u0323 \u1ec7", "½ ¼ ² ³ ₂ ㎏ ㌔ ℃ №",
    "\u00a0a\u2003photo\u3000of\u200bcat\u00ad\ufeff", "a\x00".replace("\x00", "") + "\x01\x7f\x0bcat\x1b[0m", "😀 cat 👩‍👩‍👧 🇩🇪 ☃️",
    "①②③ Ⅷ ⅷ", "한국어 \u1112\u1161\u11ab", "ｶﾀｶﾅ ｶﾞ", "ﷺ", "ß ẞ ſ ŉ ĳ Ǆ", "Привет мир",
    "Привет\u0306 мири\u0306", "日本語漢字", "▁a▁cat", "a ▁ b", "x" * 60, "…‥ ⁇ ‼ ——", "´ ¨ ˚ a´", "\u0301a \u0301", "\u200da\u200cb", "\ufffd a",
    "the photo, of (a) [cat]: <b> & \"c\" 'd'", "a\u2028photo\u2029of", "\u0344 \u0958 \u212b \u2126", "ÅÅÅ" ]


def write(name, value):
    with open(os.path.join(OUT, name), "w") as f:
        json.dump(value, f, ensure_ascii=True, indent=0)
        f.write("\n")


def spiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3), model_writer=model, vocab_size=200, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, num_threads=1, minloglevel=2)
    with open(os.path.join(OUT, "spiece.model"), "wb") as f:
        f.write(model.getvalue())
    words = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    cases = [{"prompt": p, "ids": words.encode(p) + [1]} for p in PROMPTS + HARD if "</s>" not in p]
    write("cases.json", cases)
    return words, cases


def check(cases):
    """By transformers, which reads the same file; it differs from SentencePiece where that has several ways."""
    theirs = transformers.T5Tokenizer.from_pretrained(OUT, extra_ids=0)
    off = [c["prompt"] for c in cases if theirs(c["prompt"]).input_ids != c["ids"]]
    print(f"{len(cases)} texts; transformers {transformers.__version__} has other numbers for {len(off)}: {off}")


def table():
    """The compiled table of a few rules."""
    rules = {"ﬁ": "fi", "e\u0301": "é", "\t": " ", "\u3000": " ", "½": "1/2", "\u200b": ""}
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "rules"), "w") as f:
            for key, value in rules.items():
                f.write(" ".join(f"{ord(c):X}" for c in key) + "\t" + " ".join(f"{ord(c):X}" for c in value) + "\n")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS * 3), model_writer=model, vocab_size=100, model_type="unigram",
            hard_vocab_limit=False, normalization_rule_tsv=os.path.join(folder, "rules"), num_threads=1, minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def tokenizer(words):
    os.makedirs(os.path.join(OUT, "json"), exist_ok=True)
    plain = Tokenizer(models.Unigram([(words.id_to_piece(i), words.get_score(i)) for i in range(len(words))], 2))
    plain.normalizer = normalizers.Sequence([normalizers.Precompiled(table()), normalizers.Replace(Regex(" {2,}"), " ")])
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")])
    plain.save(os.path.join(OUT, "json/tokenizer.json"))
    texts = ["the ﬁnest cafe\u0301", "a\tphoto\u3000of  a cat", "½ of\u200b it", "caf\u00e9 ﬂuff"]
    write("json/cases.json", [{"prompt": p, "ids": plain.encode(p).ids + [1]} for p in texts])


os.makedirs(OUT, exist_ok=True)
words, cases = spiece()
check(cases)
tokenizer(words)

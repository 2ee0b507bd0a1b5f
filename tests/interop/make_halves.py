"""Writes tests/data/merges/stored: three models in half precision, and what the web UIs make of
them, computed by torch step by step in the types in which they are stored.

    python tests/interop/make_halves.py tests/data/merges/stored

Made with torch 2.15. The formulas are those of the web UI (extras.py) and supermerger; results are
cast to A's type. Every tensor has other types in A, B and C.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(5)
H, B, F = torch.float16, torch.bfloat16, torch.float32
TYPES = {"half": (H, H, H), "bf16": (B, B, B), "half_in_f32": (F, H, H), "f32_in_half": (H, F, H),
         "f32_taken": (H, H, F), "both": (H, B, H)}
models = [{k: (torch.randn(300) * 2.0 ** torch.randint(-6, 6, (300,))).to(t[m])
           for k, t in TYPES.items()} for m in range(3)]
for name, model in zip("abc", models):
    save_file(model, f"{folder}/{name}.safetensors")


def a1111_sum(a, b, c):
    return (1 - 0.3) * a + 0.3 * b


def a1111_difference(a, b, c):
    return a + 0.7 * (b - c)


def supermerger_difference(a, b, c):
    return a + 0.7 * (b.float() - c.float()).to(b.dtype)


def supermerger_train(a, b, c):
    learned, apart = (b.float() - c.float()).abs(), (b.float() - a.float()).abs()
    share = torch.where(learned + apart != 0, apart / (learned + apart), 0.0)
    added = torch.sign(b.float() - c.float()) * share * learned * (0.7 * 1.8)
    return a + added.to(a.dtype)


CASES = [("weighted-sum", "ab", 0.3, "a1111", a1111_sum),
         ("add-difference", "abc", 0.7, "a1111", a1111_difference),
         ("add-difference", "abc", 0.7, "supermerger", supermerger_difference),
         ("train-difference", "abc", 0.7, "supermerger", supermerger_train)]
cases, expected = [], {}
for method, inputs, alpha, compat, function in CASES:
    name = f"{compat} {method}"
    cases.append({"name": name, "merge": {"method": method, "inputs": list(inputs), "alpha": alpha,
                                          "compat": compat}})
    for k in TYPES:
        a, b, c = (m[k] for m in models)
        expected[f"{name}/{k}"] = function(a, b, c).to(a.dtype)
save_file(expected, f"{folder}/expected.safetensors")
with open(f"{folder}/cases.json", "w") as f:
    f.write("[" + ",\n ".join(json.dumps(c) for c in cases) + "]\n")

"""Writes tests/data/merges/wide: two models, and their mixes by supermerger's cosines, in which every
tensor depends on all others.

    python tests/interop/make_cosine.py tests/data/merges/wide

Made with torch 2.15 and numpy 2.4, by supermerger's formulas: what is alike in two columns (along
the first axis) is spread over the range that it has in the whole model, but for the lowest and then
the highest hundredth; the VAE stays the first model's.
"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity, normalize

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(7)
SHAPES = {"model.diffusion_model.a.weight": (24, 20), "model.diffusion_model.b.weight": (12, 6, 3, 3),
          "cond_stage_model.c.weight": (18, 31), "cond_stage_model.d.bias": (21,),
          "first_stage_model.e.weight": (9, 7), "other.weight": (5, 4)}
a = {k: torch.randn(s) / 4 for k, s in SHAPES.items()}
b = {k: x + torch.randn(x.shape) / 6 for k, x in a.items()}
save_file(a, f"{folder}/a.safetensors")
save_file(b, f"{folder}/b.safetensors")


def whole(x, y):
    return (x * y).sum() / (x.norm() * y.norm())


def alike(mode, x, y):
    """One number for each column; and of mode A, first pass, without the whole tensor's."""
    if mode == "a":
        x, y = normalize(x, dim=0), normalize(y, dim=0)
    return cosine_similarity(x, y, dim=0), (cosine_similarity(x, y, dim=0) + whole(x, y)) / 2


def counts(name):
    return "model" in name and "first_stage_model" not in name


cases, expected = [], {}
for mode in "ab":
    sims = np.concatenate([alike(mode, a[k].double(), b[k].double())[mode == "b"].reshape(-1).numpy()
                           for k in SHAPES if counts(k)])
    sims = sims[sims >= np.percentile(sims, 1, method="midpoint")]
    sims = sims[sims <= np.percentile(sims, 99, method="midpoint")]
    name = f"supermerger cosine {mode}"
    cases.append({"name": name, "merge": {"method": f"cosine-{mode}", "inputs": ["a", "b"],
                                          "alpha": 0.2, "compat": "supermerger"}})
    for k in SHAPES:
        result = a[k]
        if counts(k):
            share = (alike(mode, a[k], b[k])[1] - sims.min()) / (sims.max() - sims.min()) - 0.2
            share = share.clip(0, 1).float()
            result = b[k] * (1 - share) + a[k] * share
        expected[f"{name}/{k}"] = result.half().contiguous()
save_file(expected, f"{folder}/expected.safetensors")
with open(f"{folder}/cases.json", "w") as f:
    f.write("[" + ",\n ".join(json.dumps(c) for c in cases) + "]\n")

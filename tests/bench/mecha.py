"""The same weighted sum with sd-mecha. usage: mecha.py A B ALPHA OUT"""
import pathlib
import sys

import sd_mecha
import torch

a_path, b_path, alpha, out = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
a = sd_mecha.model(pathlib.Path(a_path))
b = sd_mecha.model(pathlib.Path(b_path))
dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
word = next((d for d in dtype if f".{d}." in a_path), "f16")
sd_mecha.merge(
    sd_mecha.weighted_sum(a, b, alpha=alpha),
    merge_device="cpu",
    merge_dtype=torch.float32,
    output_dtype=dtype[word],
    output=pathlib.Path(out),
)

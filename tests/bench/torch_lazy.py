"""Weighted sum the way a careful script does it: tensors are read one at a time, mixed in f32, and
written at the end. usage: torch_lazy.py A B ALPHA OUT"""
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

a_path, b_path, alpha, out = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
with safe_open(a_path, "pt") as a, safe_open(b_path, "pt") as b:
    in_b = set(b.keys())
    merged = {}
    for name in a.keys():
        x = a.get_tensor(name)
        if name in in_b and x.is_floating_point():
            x = torch.lerp(x.float(), b.get_tensor(name).float(), alpha).to(x.dtype)
        merged[name] = x
save_file(merged, out, {"format": "pt"})

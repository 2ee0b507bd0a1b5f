#!/usr/bin/env python3
"""Writes recipes/models/classifier.safetensors, a trained classifier in f16, and what torch makes of it.

    python3 tests/interop/make_classifier.py MODELS     from the root of the tree; needs: torch, safetensors

MODELS has classifier.safetensors in f32 and parity/ with a few images.
"""
import sys

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

models = sys.argv[1]
with safe_open(f"{models}/classifier.safetensors", "pt") as f:
    metadata = f.metadata()
weights = {k: v.half() for k, v in load_file(f"{models}/classifier.safetensors").items()}
save_file(weights, "recipes/models/classifier.safetensors", metadata)
w = {k: v.float() for k, v in weights.items()}


def run(x):
    for i in (1, 2, 3):
        x = F.silu(F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"], stride=2, padding=1))
    features = F.silu(F.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]))
    return features, F.linear(features, w["fc2.weight"], w["fc2.bias"])


# Two real images, then samples of a model asked for a sneaker, a t-shirt and an ankle boot.
names = ("ddim10_trailing", "dpmpp2m_karras10", "euler10_leading")
images = torch.cat([load_file(f"{models}/parity/vae.safetensors")["image"]]
                   + [load_file(f"{models}/parity/sample_{n}.safetensors")["image"] for n in names])
features, logits = run(images)
small = images[:, :, 2:30, 3:29].contiguous()
small_features, small_logits = run(F.pad(small, (3, 3, 2, 2), value=-1))
print(images.shape, images.min(), images.max(), logits.argmax(1), small_logits.argmax(1))
save_file({"images": images, "features": features, "logits": logits, "small": small,
           "small_features": small_features, "small_logits": small_logits},
          "tests/data/classifier_reference.safetensors")

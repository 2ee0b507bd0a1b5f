"""Writes tests/data/merges: three small models, and what mergekit, sd-mecha, scipy and torch make of
them, in f16.

    python tests/interop/make_merges.py tests/data/merges

Made with mergekit 0.1.5, sd-mecha 1.1.8, scipy 1.17, torch 2.15. The models are f32, so that no two
changes are of one size; the first is the base.
"""
import json
import os
import sys

import numpy as np
import torch
from mergekit.merge_methods import merge_tensors
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter, median_filter
from sd_mecha.extensions.builtin.merge_methods import cosine, crossover, linear, slicing, ties

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(3)
SHAPES = {"linear.weight": (24, 20), "conv.weight": (12, 6, 3, 3), "linear.bias": (210,)}
base = {k: torch.randn(s) / 4 for k, s in SHAPES.items()}
models = [base] + [{k: x + torch.randn(x.shape) / 9 for k, x in base.items()} for _ in range(2)]
for name, model in zip("abc", models):
    save_file(model, f"{folder}/{name}.safetensors")
cases, expected = [], {}


def case(name, tool, merge, function):
    """function(a, b, c) gives one tensor."""
    cases.append({"name": name, "tool": tool, "merge": merge})
    for k in SHAPES:
        result = function(*(m[k].clone() for m in models))
        expected[f"{name}/{k}"] = result.half().contiguous()


def mergekit(method, ours, inputs="abc", theirs=None, base_index=0, **fields):
    merge = {"method": ours, "inputs": list(inputs), **fields}
    case(f"mergekit {method} {len(cases)}", "mergekit", merge,
         lambda *t: merge_tensors(t[:len(inputs)], method, base_index=base_index,
                                  parameters=theirs or {}))


def mecha(method, merge, function):
    case(f"mecha {method} {len(cases)}", "mecha", merge, function)


def node(method, inputs="ab", **fields):
    return {"method": method, "inputs": list(inputs), **fields}


W = {"weight": [0.7, 1.6]}
mergekit("linear", "linear", base_index=None, theirs={"weight": [1.0, 2.0, 0.5]}, weight=[1, 2, 0.5])
mergekit("slerp", "slerp", "ab", theirs={"t": 0.3}, alpha=0.3)
mergekit("nuslerp", "nuslerp", theirs=W, **W)
mergekit("multislerp", "multi-slerp", base_index=None, theirs={"weight": [1.0, 2.0, 0.5]},
         weight=[1, 2, 0.5])
mergekit("multislerp", "multi-slerp-of-changes", theirs=W, **W)
mergekit("karcher", "karcher", base_index=None)
mergekit("model_stock", "model-stock")
mergekit("nearswap", "near-swap", "ab", theirs={"t": 0.05}, t=0.05)
mergekit("ram", "ram", theirs={"epsilon": 0.05}, least=0.05)
mergekit("task_arithmetic", "task-arithmetic", theirs={**W, "lambda": 0.6}, **W, **{"lambda": 0.6})
for normalize in (0, 1):
    mergekit("ties", "ties", theirs={**W, "density": [0.3, 0.6], "normalize": bool(normalize)}, **W,
             density=[0.3, 0.6], normalize="on" if normalize else "off")
    mergekit("breadcrumbs_ties", "breadcrumbs-ties",
             theirs={**W, "density": [0.3, 0.6], "gamma": 0.1, "normalize": bool(normalize)}, **W,
             density=[0.3, 0.6], gamma=0.1, normalize="on" if normalize else "off")
mergekit("breadcrumbs", "breadcrumbs", theirs={**W, "density": [0.3, 0.95], "gamma": 0.1}, **W,
         density=[0.3, 0.95], gamma=0.1)
mergekit("breadcrumbs", "breadcrumbs", theirs={**W, "density": [0.3, 0.6], "gamma": 0.003}, **W,
         density=[0.3, 0.6], gamma=0.003)
for select in (0.4, 1.0):
    mergekit("sce", "sce", theirs={"select_topk": select}, select=select)
mergekit("arcee_fusion", "arcee-fusion", "ab")

mecha("weighted_sum", node("weighted-sum", alpha=0.3), lambda a, b, c: torch.lerp(a, b, 0.3))
mecha("n_average", node("n-average", "abc"), lambda a, b, c: (a + b + c) / 3)
mecha("slerp", node("slerp", alpha=0.3, compat="mecha"),
      lambda a, b, c: linear.slerp.__wrapped__(a, b, torch.tensor(0.3)))
mecha("model_stock", node("model-stock", "abc", compat="mecha"),
      lambda a, b, c: a + ties.model_stock.__wrapped__(b - a, c - a))
mecha("ties_sum", node("ties", "abc", density=[0.4, 0.4], compat="mecha"),
      lambda a, b, c: a + ties.ties_sum.__wrapped__(b - a, c - a, k=0.4))
for letter in "ab":
    function = getattr(cosine, f"add_cosine_{letter}").__wrapped__
    mecha(f"add_cosine_{letter}", node(f"cosine-{letter}", alpha=0.6),
          lambda a, b, c, f=function: f(a, b, torch.tensor(0.6)))
for width, offset in ((0.3, 0.25), (0.6, 0.7)):
    mecha("tensor_sum", node("tensor-sum", alpha=width, beta=offset, compat="mecha"),
          lambda a, b, c, w=width, o=offset: slicing.tensor_sum.__wrapped__(a, b, w, o))
    mecha("top_k_tensor_sum", node("top-k-tensor-sum", alpha=width, beta=offset, compat="mecha"),
          lambda a, b, c, w=width, o=offset: slicing.top_k_tensor_sum.__wrapped__(a, b, w, o))
for tilt in (0.0, 0.35):
    mecha("crossover", node("crossover", alpha=0.37, tilt=tilt),
          lambda a, b, c, t=tilt: crossover.__wrapped__(a, b, 0.37, t))


def smooth_add(a, b, c):
    median = median_filter((b - c).numpy().astype(np.float32), size=3)
    return a + 0.8 * torch.from_numpy(gaussian_filter(median, sigma=1))


def multiply_difference(a, b, c):
    size = (a - c).abs() ** 0.7 * (b - c).abs() ** 0.3
    return c + torch.copysign(size, 0.4 * a + 0.6 * b - c)


def train_difference(a, b, c):
    learned, apart = (b - c).abs(), (b - a).abs()
    return a + 1.8 * 0.7 * apart / (apart + learned) * (b - c)


def geometric_median(*tensors):
    """(sd-mecha's stops when the f32 sum of the distances does not change any more.)"""
    x = torch.stack([t.double() for t in tensors])
    median = x.mean(0)
    for _ in range(3000):
        weights = torch.stack([1 / (t - median).norm() for t in x])
        median = sum(w * t for w, t in zip(weights, x)) / weights.sum()
    return median


case("torch geometric median", "torch", node("geometric-median", "abc"), geometric_median)
case("scipy smooth add", "supermerger", node("smooth-add", "abc", alpha=0.8), smooth_add)
case("torch multiply difference", "meh", node("multiply-difference", "abc", alpha=0.3, beta=0.6),
     multiply_difference)
case("torch train difference", "supermerger", node("train-difference", "abc", alpha=0.7),
     train_difference)
case("torch add difference", "torch", node("add-difference", "abc", alpha=0.7),
     lambda a, b, c: a + 0.7 * (b - c))

save_file(expected, f"{folder}/expected.safetensors")
with open(f"{folder}/cases.json", "w") as f:
    f.write("[" + ",\n ".join(json.dumps(c) for c in cases) + "]\n")

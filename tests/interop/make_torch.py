#!/usr/bin/env python3
"""Writes the files in tests/data/torch/ with torch, and next to them what they hold as safetensors.

    python3 tests/interop/make_torch.py       from the root of the tree; needs: pip install torch
                                              safetensors numpy

X.pt is read with the values of X.safetensors; X_legacy.pt, X_deflated.pt and so on have the same
values in another form. refused_*.pt hold what cannot be read.
"""
import argparse
import collections
import os
import warnings
import zipfile

import numpy
import torch
from safetensors.torch import save_file

FOLDER = "tests/data/torch/"
warnings.simplefilter("ignore")
torch.manual_seed(0)


def path(name):
    return FOLDER + name


def expect(name, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path(name))


def count(dtype, *shape):
    """0.5, 1.0, 1.5, ... cast to dtype."""
    n = int(numpy.prod(shape, dtype=int))
    return ((torch.arange(n, dtype=torch.float64) + 1) / 2).reshape(shape).to(dtype)


def rewrite(source, target, change=lambda name, data: data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path(source)) as old, zipfile.ZipFile(path(target), "w") as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            info = zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0))
            new.writestr(info, data, compression)


# Element types, numbers of dimensions, an empty tensor.
types = {
    "f64": count(torch.float64, 2, 3),
    "f32": count(torch.float32, 2, 3),
    "f16": count(torch.float16, 7),
    "bf16": count(torch.bfloat16, 5),
    "i64": count(torch.int64, 3),
    "i32": count(torch.int32, 3),
    "i16": count(torch.int16, 3),
    "i8": count(torch.int8, 3),
    "u8": count(torch.uint8, 3),
    "bool": torch.tensor([True, False, True]),
    "complex": torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
}
torch.save(types, path("types.pt"))
torch.save(types, path("types_legacy.pt"), _use_new_zipfile_serialization=False)
torch.save(types, path("types_protocol4.pt"), pickle_protocol=4)
expect("types.safetensors", types)

# Those that need _rebuild_tensor_v3.
new_types = {
    "e4m3": count(torch.float8_e4m3fn, 6),
    "e5m2": count(torch.float8_e5m2, 6),
    "u16": count(torch.uint16, 3),
    "u32": count(torch.uint32, 3),
    "u64": count(torch.uint64, 3),
    "e4m3_part": count(torch.float8_e4m3fn, 4, 3)[1:3],
    "u16_column": torch.arange(12).to(torch.uint16).reshape(4, 3)[:, 1],
}
torch.save(new_types, path("new_types.pt"))
torch.save(new_types, path("new_types_legacy.pt"), _use_new_zipfile_serialization=False)
expect("new_types.safetensors", new_types)

# Tensors that share storages, and are not packed.
base = count(torch.float32, 6, 5)
images = count(torch.float16, 2, 3, 4, 5)
views = {
    "base": base,
    "tied": base,
    "row": base[2],
    "rows": base[1:4],
    "transposed": base.t(),
    "columns": base[:, 1:4],
    "every_second": base[::2, ::3],
    "diagonal": base.diagonal(),
    "expanded": base[3:4].expand(4, 5),
    "repeated": base[0, 1:2].expand(3),
    "channels_last": images.to(memory_format=torch.channels_last),
    "permuted": images.permute(3, 1, 0, 2),
    "last_element": base.view(-1)[29:],
}
torch.save(views, path("views.pt"))
torch.save(views, path("views_legacy.pt"), _use_new_zipfile_serialization=False)
rewrite("views.pt", "views_stored.pt")
rewrite("views.pt", "views_deflated.pt", compression=zipfile.ZIP_DEFLATED)
expect("views.safetensors", views)


def swapped(name, data):
    """All storages of this file have 4-byte elements."""
    if name.endswith("/byteorder"):
        return b"big"
    if "/data/" in name:
        return numpy.frombuffer(data, "<u4").astype(">u4").tobytes()
    return data


big = {"a": count(torch.float32, 2, 3), "b": count(torch.int32, 4), "c": base[:, 2]}
torch.save(big, path("big_endian.tmp"))
rewrite("big_endian.tmp", "big_endian.pt", swapped)
os.remove(path("big_endian.tmp"))
expect("big_endian.safetensors", big)
loaded = torch.load(path("big_endian.pt"))
assert all(torch.equal(loaded[k], big[k]) for k in big)

# What a training run leaves: a module's state dict, deep in other things.
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
with torch.no_grad():
    for p in module.parameters():
        p.copy_(count(torch.float32, *p.shape))
optimizer = torch.optim.Adam(module.parameters())
module(torch.ones(2, 3)).sum().backward()
optimizer.step()
training = {
    "epoch": 3,
    "global_step": 12345678901,
    "state_dict": module.state_dict(),
    "optimizer_states": [optimizer.state_dict()],
    "lr_schedulers": [],
    "best": numpy.float64(0.25),
    "hyper_parameters": argparse.Namespace(lr=1e-4, name="run"),
    "history": numpy.arange(3.0),
}
torch.save(training, path("training.pt"))
torch.save(training, path("training_legacy.pt"), _use_new_zipfile_serialization=False)
expect("training.safetensors", module.state_dict())

# Parameters, a tensor with an attribute, entries that are no tensors.
attributed = count(torch.float32, 3)
attributed.note = "kept as state"
parameters = collections.OrderedDict(
    weight=torch.nn.Parameter(count(torch.float32, 2, 2)),
    frozen=torch.nn.Parameter(count(torch.float16, 3), requires_grad=False),
    attributed=attributed,
    half=count(torch.float32, 4).half(),
)
torch.save({"model": {**parameters, "step": 7, "nothing": None}}, path("parameters.pt"))
expect("parameters.safetensors", parameters)

torch.save({"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
           path("refused_quantized.pt"))
torch.save({"s": torch.eye(3).to_sparse()}, path("refused_sparse.pt"))
torch.save({"c": torch.ones(2, dtype=torch.complex128)}, path("refused_complex128.pt"))
torch.save(torch.nn.Linear(2, 2), path("refused_module.pt"))
torch.save([torch.ones(2)], path("refused_list.pt"))
torch.jit.script(torch.nn.Linear(2, 2)).save(path("refused_script.pt"))

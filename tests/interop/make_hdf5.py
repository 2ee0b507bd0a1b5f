#!/usr/bin/env python3
"""Writes the files in tests/data/hdf5/ with h5py, laid out as Keras and others do.

    python3 tests/interop/make_hdf5.py        from the root of the tree; needs: pip install h5py

Element i of every tensor (in C order) is i - 3, cast to its type, unless said otherwise.
"""
import zipfile

import h5py
import numpy as np

FOLDER = "tests/data/hdf5/"


def values(shape, dtype):
    return (np.arange(np.prod(shape, dtype=int)) - 3).reshape(shape).astype(dtype)


def new(name, **options):
    # Without times, the same file comes out every time.
    return h5py.File(FOLDER + name, "w", track_order=False, **options)


def fill_layers(group, layers, split=0):
    """layers: (name, [(weight, shape)]) as Keras 2 writes them. split: parts of layer_names."""
    names = np.array([name.encode() for name, _ in layers])
    if split:
        for i, part in enumerate(np.array_split(names, split)):
            group.attrs["layer_names%d" % i] = part
    else:
        group.attrs["layer_names"] = names
    group.attrs["backend"] = "tensorflow"
    for name, weights in layers:
        layer = group.create_group(name)
        layer.attrs["weight_names"] = np.array([w.encode() for w, _ in weights])
        for weight, shape in weights:
            layer.create_dataset(weight, data=values(shape, "<f4"), track_times=False)


# The order of the layers and of the weights is not the alphabet's.
LAYERS = [
    ("input_1", []),
    ("zoom", [("zoom/kernel:0", (3, 2)), ("zoom/bias:0", (2,))]),
    ("conv", [("conv/kernel:0", (3, 3, 1, 2)), ("conv/bias:0", (2,)), ("conv/alpha:0", ())]),
]

with new("keras2_weights.h5") as f:
    fill_layers(f, LAYERS)

with new("keras2_model.h5") as f:
    f.attrs["keras_version"] = "2.11.0"
    f.attrs["model_config"] = '{"class_name": "Functional", "config": {"layers": []}}'
    fill_layers(f.create_group("model_weights"), LAYERS, split=2)
    optimizer = f.create_group("optimizer_weights")
    optimizer.create_dataset("iteration:0", data=np.int64(7), track_times=False)

with new("keras3.weights.h5") as f:
    for layer, shapes in (("dense_1", [(2, 2)]), ("conv2d", [(3, 3, 1, 2), (2,)])):
        group = f.create_group("layers/%s/vars" % layer)
        group.attrs["name"] = layer
        for i, shape in enumerate(shapes):
            group.create_dataset(str(i), data=values(shape, "<f4"), track_times=False)
    brain = f.create_dataset("vars/0", data=values((4,), "<f4").view("<u4") >> 16, dtype="<u2", track_times=False)
    brain.attrs["dtype"] = "bfloat16"


def fill_types(f):
    for kind in "f2 f4 f8 i1 u1 i2 u2 i4 u4 i8 u8".split():
        f.create_dataset("little." + kind, data=values((2, 5), "<" + kind), track_times=False)
        f.create_dataset("big." + kind, data=values((2, 5), ">" + kind), track_times=False)
    f.create_dataset("bool", data=np.array([True, False, True]), track_times=False)
    opaque = f.create_dataset("opaque", data=(values((4,), "<f4").view("<u4") >> 16).astype("<u2").view("V2"), track_times=False)
    opaque.attrs["dtype"] = np.bytes_("bfloat16")
    f.create_dataset("empty", shape=(0, 3), dtype="<f4", track_times=False)
    f.create_dataset("unwritten", shape=(5,), dtype="<f4", fillvalue=1.5, track_times=False)
    f.create_dataset("words", data=["not", "numbers"], dtype=h5py.string_dtype(), track_times=False)
    f.create_dataset("pairs", data=np.zeros(2, np.dtype([("a", "<f4"), ("b", "<i4")])), track_times=False)
    f.create_dataset("nothing", data=h5py.Empty("f4"), track_times=False)


with new("types.h5") as f:
    fill_types(f)
with new("types_v110.h5", libver=("v110", "v110"), userblock_size=512) as f:
    fill_types(f)

with new("chunked.h5") as f:
    shape = (7, 5, 6)
    for name, options in {
        "plain": {},
        "gzip": {"compression": "gzip"},
        "shuffle": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    }.items():
        f.create_dataset(name, data=values(shape, "<f4"), chunks=(2, 3, 4), track_times=False, **options)
    f.create_dataset("big", data=values(shape, ">f4"), chunks=(3, 5, 1), track_times=False)
    growing = f.create_dataset("growing", shape=shape, maxshape=(None, 5, 6), chunks=(1, 5, 6), dtype="<f4", fillvalue=9, track_times=False)
    growing[2] = values(shape, "<f4")[2]

# What is refused.
with new("soft_link.h5") as f:
    f["a"] = h5py.SoftLink("/b")
with new("external_link.h5") as f:
    f["a"] = h5py.ExternalLink("other.h5", "/b")
with new("external_storage.h5") as f:
    f.create_dataset("a", shape=(4,), dtype="<f4", external=[("other.bin", 0, 16)], track_times=False)
with new("virtual.h5") as f:
    layout = h5py.VirtualLayout(shape=(4,), dtype="<f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", shape=(4,))
    f.create_virtual_dataset("a", layout)
with new("two_names.h5") as f:
    f.create_group("a")["again"] = f["/"]
with new("missing_weight.h5") as f:
    fill_layers(f, [("conv", [("conv/kernel:0", (2,))])])
    del f["conv/conv/kernel:0"]
with new("lzf.h5") as f:  # a filter that is h5py's own
    f.create_dataset("a", data=values((8,), "<f4"), compression="lzf", track_times=False)
with new("bomb.h5") as f:  # 4 TiB of zeros
    f.create_dataset("a", shape=(1 << 40,), dtype="<f4", chunks=(1 << 20,), compression="gzip", track_times=False)
with new("same_name.h5") as f:
    f.create_dataset("a/b", data=values((2,), "<f4"), track_times=False)
    f.create_dataset("a.b", data=values((2,), "<f4"), track_times=False)
with new("big_chunk.h5") as f:
    f.create_dataset("a", shape=(1 << 28,), dtype="<f4", chunks=(1 << 28,), compression="gzip", track_times=False)


# Keras 3's archive around its weights, both ways.
def archive(name, method, entries):
    with zipfile.ZipFile(FOLDER + name, "w", method) as z:
        for entry, data in entries:
            z.writestr(zipfile.ZipInfo(entry), data, method)


weights = open(FOLDER + "keras3.weights.h5", "rb").read()
entries = [("metadata.json", b"{}"), ("config.json", b'{"class_name": "Lambda"}'), ("model.weights.h5", weights)]
archive("stored.keras", zipfile.ZIP_STORED, entries)
archive("deflated.keras", zipfile.ZIP_DEFLATED, entries)
archive("empty.keras", zipfile.ZIP_STORED, entries[:2])

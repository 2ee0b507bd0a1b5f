#!/usr/bin/env python3
"""Writes tests/data/gguf/reference.gguf with the gguf package, as programs of that family would.

    python3 tests/interop/make_gguf.py        from the root of the tree; needs: pip install gguf

Every tensor NAME that is quantised, or of a plain type, is followed by NAME.expected, its values as
the package itself decodes them, in F32. The same file comes out every time.
"""
import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

rng = np.random.default_rng(4)


def blocks(kind, rows, row_blocks):
    """Random blocks with scales of ordinary size; every other bit pattern is possible."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = rng.integers(0, 256, (rows * row_blocks, size), dtype=np.uint8)
    at = {Q.Q6_K: [208], Q.Q4_1: [0, 2], Q.Q5_1: [0, 2], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2]}.get(kind, [0])
    for position in at:
        scale = rng.normal(0, 0.02, len(raw)).astype("<f2")
        scale[:3] = [6e-8, -0.0, 3e-5]  # subnormal, zero, subnormal
        raw[:, position : position + 2] = scale.view(np.uint8).reshape(-1, 2)
    return raw.reshape(rows, row_blocks * size)


writer = gguf.GGUFWriter("tests/data/gguf/reference.gguf", "flux")
writer.add_description("quantised and plain tensors, each with its decoded values")
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
writer.add_array("tokenizer.ggml.tokens", ["<pad>", "ä", ""])
writer.add_float64("test.f64", 0.1)
writer.add_int8("test.i8", -5)
writer.add_bool("test.bool", True)

for kind in (Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q4_K, Q.Q5_K, Q.Q6_K):
    raw = blocks(kind, 3, 2)
    writer.add_tensor(kind.name, raw, raw_dtype=kind)
    writer.add_tensor(kind.name + ".expected", gguf.dequantize(raw, kind))

values = rng.normal(0, 1, (2, 3, 5)).astype(np.float32)
writer.add_tensor("F16", values.astype(np.float16))
writer.add_tensor("F16.expected", values.astype(np.float16).astype(np.float32))
brain = gguf.quantize(values, Q.BF16)
writer.add_tensor("BF16", brain, raw_dtype=Q.BF16)
writer.add_tensor("BF16.expected", gguf.dequantize(brain, Q.BF16))
writer.add_tensor("I32", np.arange(-3, 4, dtype=np.int32))

# A convolution whose rows are too short for blocks: stored flat, with its shape in the metadata.
conv = rng.normal(0, 1, (16, 2, 4, 2)).astype(np.float32)
writer.add_array("comfy.gguf.orig_shape.conv", [16, 2, 4, 2])
writer.add_tensor("conv", gguf.quantize(conv.reshape(1, 256), Q.Q8_0), raw_dtype=Q.Q8_0)
writer.add_tensor("conv.expected", gguf.dequantize(gguf.quantize(conv.reshape(1, 256), Q.Q8_0), Q.Q8_0))

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

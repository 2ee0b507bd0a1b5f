"""What torch, safetensors and h5py write, we read, and back; merges equal torch's formulas.
usage: check.py BUILD"""
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

build = os.path.realpath(sys.argv[1])
checks = 0


def run(*words):
    subprocess.run([os.path.join(build, words[0]), *words[1:]], check=True, stdout=subprocess.DEVNULL)


def check(what, good):
    global checks
    checks += 1
    if not good:
        sys.exit(f"FAILED: {what}")


def ulps(a, b, dtype):
    """The largest distance of two tensors in units of the last place of dtype."""
    integer = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}[dtype]

    def place(t):
        bits = t.to(dtype).contiguous().view(integer).long()
        sign = torch.iinfo(integer).min
        return torch.where(bits < 0, sign - bits, bits)

    return int((place(a) - place(b)).abs().max())


def models(dtype):
    torch.manual_seed(1)
    names = {"model.diffusion_model.a.weight": (64, 33), "first_stage_model.b": (7,), "c": (3, 5, 3, 3)}
    return [{n: (torch.randn(s) * 0.1).to(dtype) for n, s in names.items()} for _ in range(3)]


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k].contiguous().view(torch.uint8), b[k].contiguous().view(torch.uint8))
        if a[k].dim() else torch.equal(a[k], b[k]) for k in a)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        a, b, c = models(dtype)
        for name, m in zip("abc", (a, b, c)):
            save_file(m, name, {"format": "pt"})
        for alpha in (0.3, 0.8):
            run("ckmerge", "a", "b", "--alpha", str(alpha), "-o", "out", "-fq")
            out = load_file("out")
            for k in a:
                # Torch's tails are computed otherwise than its vectors: one unit.
                want = torch.lerp(a[k].float(), b[k].float(), alpha)
                check(f"weighted sum {dtype} {k}", ulps(out[k], want, dtype) <= 1)
        run("ckmerge", "a", "b", "c", "-m", "add-difference", "--alpha", "0.7", "-o", "out", "-fq")
        out = load_file("out")
        for k in a:
            want = a[k].double() + 0.7 * (b[k].double() - c[k].double())
            near = (out[k].double() - want).abs() <= torch.finfo(dtype).eps * (want.abs() + 0.2)
            check(f"add difference {dtype} {k}", bool(near.all()))
        # The reference serializer's bytes for the same content.
        run("cktool", "convert", "a", "copy", "-fq")
        check(f"bytes of safetensors {dtype}", open("a", "rb").read() == open("copy", "rb").read())
        # torch.save, both layouts, with what training leaves around the weights.
        for zipped in (True, False):
            torch.save({"state_dict": a, "epoch": 3}, "a.ckpt", _use_new_zipfile_serialization=zipped)
            run("cktool", "convert", "a.ckpt", "copy", "-fq")
            check(f"checkpoint zip={zipped} {dtype}", same(load_file("copy"), a))
    # Conversions to f8 as torch rounds them (torch of before 2026 gives NaN for what is too large).
    a = {"x": torch.randn(4096) * 50}
    save_file(a, "a")
    for word, dtype in (("f8_e4m3", torch.float8_e4m3fn), ("f8_e5m2", torch.float8_e5m2)):
        run("cktool", "convert", "a", "out", "-fq", "--dtype", word)
        check(word, torch.equal(load_file("out")["x"].view(torch.uint8), a["x"].to(dtype).view(torch.uint8)))
    try:
        import h5py

        with h5py.File("m.h5", "w") as f:
            f["layer/kernel"] = a["x"].numpy()
        run("cktool", "convert", "m.h5", "out", "-fq")
        check("h5py", torch.equal(load_file("out")["layer.kernel"], a["x"]))
    except ImportError:
        print("h5py is not there: not checked")
print(f"{checks} checks against torch {torch.__version__} passed")

"""LoRAs applied and extracted by us, against torch's formulas; against diffusers and PEFT where they are there.
usage: check_lora.py BUILD, from the root of the tree"""
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

build, base_path = os.path.realpath(sys.argv[1]), os.path.realpath("recipes/models/base/unet/diffusion_pytorch_model.safetensors")
tuned_path = os.path.realpath("recipes/models/clothes/unet/diffusion_pytorch_model.safetensors")
checks = 0


def run(*words):
    subprocess.run([os.path.join(build, words[0]), *words[1:]], check=True, stdout=subprocess.DEVNULL)


def check(what, good):
    global checks
    checks += 1
    if not good:
        sys.exit(f"FAILED: {what}")


def close(out, want, size):
    """To half a unit in the last place of the result's type, and the rounding of f32's sums of terms of this size."""
    out, want = out.double(), want.double()
    return bool(((out - want).abs() <= 0.501 * unit(want, close.dtype) + 2e-7 * size).all())


def unit(x, dtype):
    info = torch.finfo(dtype)
    return torch.exp2(torch.floor(torch.log2(x.abs().clamp(min=info.tiny)))) * info.eps


def lora_for(base, rank):
    """kohya's names for every matrix and convolution, and the changes in double."""
    tensors, changes, sizes = {}, {}, {}
    for i, (name, w) in enumerate(base.items()):
        if w.dim() < 2:
            continue
        r, tail = min(rank + i % 3, w.shape[0]), [1] * (w.dim() - 2)
        up, down = torch.randn(w.shape[0], r, *tail) * 0.1, torch.randn(r, *w.shape[1:]) * 0.1
        layer = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
        if i % 2:
            tensors[f"{layer}.alpha"] = torch.tensor(1.5)
        scale = 1.5 / r if i % 2 else 1
        product = up.double().flatten(1) @ down.double().flatten(1)
        changes[name] = scale * product.reshape(w.shape)
        sizes[name] = scale * (up.abs().double().flatten(1) @ down.abs().double().flatten(1)).reshape(w.shape)
    return tensors, changes, sizes


def check_applied(base):
    for rank, dtype in ((4, torch.float16), (64, torch.float16), (8, torch.bfloat16), (8, torch.float32)):
        close.dtype = dtype
        model = {k: v.to(dtype) for k, v in base.items()}
        tensors, changes, sizes = lora_for(base, rank)
        save_file(model, "model")
        save_file(tensors, "lora")
        run("ckmerge", "model", "--lora", "lora:0.8", "-o", "out", "-fq")
        out = load_file("out")
        for k, w in model.items():
            want = w.double() + 0.8 * changes[k] if k in changes else w.double()
            size = 0.8 * sizes[k] + w.double().abs() if k in changes else 0
            check(f"rank {rank} {dtype} {k}", out[k].dtype == dtype and close(out[k], want, size))


def check_extracted(base, tuned):
    """As much of the change is kept as an exact decomposition would."""
    run("cktool", "extract-lora", tuned_path, base_path, "-o", "lora", "-fq", "--rank", "12", "--dtype", "f32")
    lora = load_file("lora")
    for k, w in base.items():
        layer = "lora_unet_" + k.removesuffix(".weight").replace(".", "_")
        if f"{layer}.alpha" not in lora:
            continue
        change = (tuned[k].double() - w.double()).flatten(1)
        up, down = (lora[f"{layer}.lora_{n}.weight"].double().flatten(1) for n in ("up", "down"))
        best = torch.linalg.svdvals(change)[12:].square().sum().sqrt()
        lost = (change - up @ down).norm()
        check(f"extracted {k}", bool(lost <= best * 1.01 + 1e-6 * change.norm()))


def check_diffusers():
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    model = {k: v.clone() for k, v in unet.state_dict().items()}
    save_file({f"unet.{k}": v for k, v in model.items()}, "model")
    for dora in (False, True):
        name = f"dora_{dora}".lower()
        unet.add_adapter(LoraConfig(r=6, lora_alpha=3, init_lora_weights=False, use_dora=dora,
                                    target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1"]), name)
        unet.save_lora_adapter(name, adapter_name=name)
        run("ckmerge", "model", "--lora", f"{name}/pytorch_lora_weights.safetensors", "-o", "out", "-fq")
        unet.fuse_lora(adapter_names=[name])
        fused = {k.replace("base_layer.", ""): v for k, v in unet.state_dict().items() if "lora_" not in k}
        out = load_file("out")
        for k, v in model.items():
            near = (out[f"unet.{k}"] - fused[k]).abs().max() <= 4e-6 * (1 + v.abs().max())
            check(f"diffusers {name} {k}", bool(near))
        changed = sum(not torch.equal(out[f"unet.{k}"], v) for k, v in model.items())
        check(f"{changed} tensors are changed", changed > 10)
        unet.unfuse_lora()
        unet.delete_adapters([name])
        unet.load_state_dict(model, strict=False)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    torch.manual_seed(2)
    base, tuned = load_file(base_path), load_file(tuned_path)
    check_applied(base)
    check_extracted(base, tuned)
    try:
        import diffusers, peft  # noqa: F401
    except ImportError as missing:
        print(f"LoRA: {missing}: not checked against diffusers and PEFT")
    else:
        check_diffusers()
print(f"{checks} checks of LoRAs against torch {torch.__version__} passed")

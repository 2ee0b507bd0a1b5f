"""Writes tests/data/lora: a model of four tensors, LoRAs of every kind for it, and the changes that
PEFT and LyCORIS make to it, in double.

    python tests/interop/make_lora.py tests/data/lora

Made with torch 2.15, peft 0.21, lycoris-lora 4.1.
"""
import json
import os
import sys

import torch
import torch.nn as nn
from lycoris.functional import locon, loha, lokr
from lycoris.functional.general import weight_decompose
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(1)
torch.set_default_dtype(torch.float64)

ROWS, INPUTS, OUT, IN, RANK = 12, 40, 6, 4, 3


def random(*shape):
    """Values that f32 holds exactly."""
    return (torch.randn(*shape) / 4).float().double()


model = {"fc.weight": random(ROWS, INPUTS), "conv.weight": random(OUT, IN, 3, 3),
         "fc.bias": random(ROWS), "norm.weight": random(ROWS)}
expected = {}


def save(name, tensors, metadata=None):
    """Layers are called as kohya's tools do."""
    plain = {("" if k.startswith("net.") else "net_") + k: v.float().contiguous()
             for k, v in tensors.items()}
    save_file(plain, f"{folder}/{name}.safetensors", metadata=metadata)


def expect(name, changes):
    for tensor, change in changes.items():
        expected[f"{name}/net.{tensor}"] = change.reshape(model[tensor].shape).contiguous()


def alpha(value):
    return torch.tensor(float(value))


# LoRA on a matrix, LoCon on a convolution
up, down = random(ROWS, RANK), random(RANK, INPUTS)
cup, cdown = random(OUT, RANK, 1, 1), random(RANK, IN, 3, 3)
lora = {"fc.lora_up.weight": up, "fc.lora_down.weight": down, "fc.alpha": alpha(1.5),
        "conv.lora_up.weight": cup, "conv.lora_down.weight": cdown}
save("lora", lora)
lora_fc = locon.diff_weight(down, up, None, gamma=0.5)
lora_conv = locon.diff_weight(cdown, cup, None)
expect("lora", {"fc.weight": lora_fc, "conv.weight": lora_conv})

# with a core
down1, mid = random(RANK, IN, 1, 1), random(RANK, RANK, 3, 3)
save("core", {"conv.lora_up.weight": cup, "conv.lora_down.weight": down1,
              "conv.lora_mid.weight": mid, "conv.alpha": alpha(6)})
expect("core", {"conv.weight": locon.diff_weight(down1, cup, mid, gamma=2)})

# DoRA of LyCORIS, by rows and by inputs, without what it adds to the length
tiny = torch.finfo(torch.float64).eps
by_row, by_input = random(ROWS, 1).abs() * 8, random(1, IN, 1, 1).abs() * 8
save("dora", lora | {"fc.dora_scale": by_row, "conv.dora_scale": by_input})
expect("dora", {
    "fc.weight": weight_decompose(model["fc.weight"] + lora_fc, by_row, wd_on_out=True)
    - model["fc.weight"],
    "conv.weight": weight_decompose(model["conv.weight"] + lora_conv, by_input, wd_on_out=False)
    - model["conv.weight"]})

# LoHa
w = [random(ROWS, RANK), random(RANK, INPUTS), random(ROWS, RANK), random(RANK, INPUTS)]
c = [random(RANK, OUT), random(RANK, IN), random(RANK, OUT), random(RANK, IN)]
t = [random(RANK, RANK, 3, 3), random(RANK, RANK, 3, 3)]
names = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]
save("loha", {f"fc.{n}": x for n, x in zip(names, w)} | {f"conv.{n}": x for n, x in zip(names, c)}
     | {"conv.hada_t1": t[0], "conv.hada_t2": t[1], "fc.alpha": alpha(6), "conv.alpha": alpha(1.5)})
expect("loha", {"fc.weight": loha.diff_weight(w[1], w[0], w[3], w[2], None, None, gamma=2),
                "conv.weight": loha.diff_weight(c[1], c[0], c[3], c[2], t[0], t[1], gamma=0.5)})

# LoKr: of two products, of one and a matrix, with a core, and of two matrices, which has no scale
a1, b1, a2, b2 = random(4, RANK), random(RANK, 5), random(3, RANK), random(RANK, 8)
w1, core, ca, cb = random(2, 2), random(RANK, RANK, 3, 3), random(RANK, 3), random(RANK, 2)
save("lokr", {"fc.lokr_w1_a": a1, "fc.lokr_w1_b": b1, "fc.lokr_w2_a": a2, "fc.lokr_w2_b": b2,
              "fc.alpha": alpha(6), "conv.lokr_w1": w1, "conv.lokr_w2_a": ca,
              "conv.lokr_w2_b": cb, "conv.lokr_t2": core, "conv.alpha": alpha(1.5)})
expect("lokr", {"fc.weight": lokr.kron_weight(None, a1, b1, None, a2, b2, scale=2),
                "conv.weight": lokr.kron_weight(w1, None, None, None, ca, cb, core, scale=0.5)})
m1, m2, k1, k2 = random(6, 4), random(2, 10), random(3, 2), random(2, 2, 3, 3)
save("matrices", {"fc.lokr_w1": m1, "fc.lokr_w2": m2, "fc.alpha": alpha(100), "conv.lokr_w1": k1,
                  "conv.lokr_w2": k2})
expect("matrices", {"fc.weight": lokr.kron_weight(m1, None, None, m2, None, None),
                    "conv.weight": lokr.kron_weight(k1, None, None, k2, None, None)})

# Full differences
diff = {"fc.diff": random(ROWS, INPUTS), "fc.diff_b": random(ROWS), "norm.w_norm": random(ROWS)}
save("full", diff)
expect("full", {"fc.weight": diff["fc.diff"], "fc.bias": diff["fc.diff_b"],
                "norm.weight": diff["norm.w_norm"]})


# PEFT itself: what merging adds, and the names that it saves
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(INPUTS, ROWS)
        self.conv = nn.Conv2d(IN, OUT, 3, bias=False)

    def forward(self, x):
        return x


def peft(name, prefix="net.", **options):
    net = Net()
    net.load_state_dict({k: v for k, v in model.items() if k != "norm.weight"})
    config = LoraConfig(r=RANK, target_modules=["fc", "conv"], init_lora_weights=False, **options)
    wrapped = get_peft_model(net, config)
    with torch.no_grad():
        for p in wrapped.parameters():
            p.copy_(p.float().double())
    state = wrapped.state_dict()
    tensors = {k.replace("base_model.model.", "net.").replace(".default", ""): v
               for k, v in state.items() if "lora_" in k}
    settings = {"r": RANK, "lora_alpha": options["lora_alpha"],
                "alpha_pattern": options.get("alpha_pattern", {}),
                "use_rslora": options.get("use_rslora", False)}
    save(name, tensors, {"lora_adapter_metadata": json.dumps(
        {f"{prefix}{k}": v for k, v in settings.items()})})
    merged = wrapped.merge_and_unload().state_dict()
    expect(name, {k: merged[k] - model[k] for k in ("fc.weight", "conv.weight")})


peft("peft", lora_alpha=6, alpha_pattern={"conv": 1})
peft("rslora", prefix="", lora_alpha=6, use_rslora=True)
peft("peft_dora", lora_alpha=4, use_dora=True)

save("model", {f"net.{k}": v for k, v in model.items()})
save_file({k: v.double() for k, v in expected.items()}, f"{folder}/expected.safetensors")

"""A training step (forward, backward) of a UNet in torch and diffusers, timed, as train.c does it.
   train.py CONFIG.json BATCH TOKENS"""
import json, resource, sys, time
import torch
from diffusers import UNet2DConditionModel

config, batch, tokens = json.load(open(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(1)
torch.set_num_threads(2)
model = UNet2DConditionModel.from_config(config)
size = config["sample_size"]
x, target = torch.randn(2, batch, config["in_channels"], size, size)
t = torch.randint(0, 1000, (batch,))
text = torch.randn(batch, tokens, config["cross_attention_dim"])


def step(bf16):
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = model(x, t, text).sample
    ((out.float() - target) ** 2).mean().backward()


for bf16 in False, True:
    step(bf16)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        step(bf16)
        seconds.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"torch {torch.__version__} {'bf16 autocast' if bf16 else 'f32'}: "
          f"{min(seconds):.3f} s a step, process {memory:.0f} MiB")

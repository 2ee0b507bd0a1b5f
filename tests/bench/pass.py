"""Passes of a UNet in torch and diffusers on a card, timed, as pass.c does: weights of bf16, channels
   last; as it is and compiled. (Without a card on the processor, only to see that it runs.)
   pass.py CONFIG.json BATCH TOKENS"""
import json, statistics, sys, time
import torch
from diffusers import UNet2DConditionModel
from torch_card import device, reset_taken, taken

config, batch, tokens = json.load(open(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
torch.backends.cudnn.benchmark = True
kind = dict(device=device, dtype=torch.bfloat16)
model = UNet2DConditionModel.from_config(config).to(**kind, memory_format=torch.channels_last).eval()
size = config["sample_size"]
x = torch.randn(batch, config["in_channels"], size, size, **kind)
text = torch.randn(batch, tokens, config["cross_attention_dim"], **kind)
times = torch.randint(0, 1000, (batch,), device=device)

for name, network in ("eager", model), ("compiled", torch.compile(model)):
    reset_taken()
    seconds = []
    for i in range(-3, 9):
        start = time.perf_counter()
        with torch.no_grad():
            network(x, times, text).sample.cpu()
        if i >= 0:
            seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds)
    print(f"torch {torch.__version__} {name}, pass, batch {batch}: {1e3 * middle:.2f} ms "
          f"(best {1e3 * min(seconds):.2f}){taken()}", flush=True)

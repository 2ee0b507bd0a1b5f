"""A whole step of training (forward, backward, clip, AdamW) of a UNet in torch and diffusers on a
   card, timed, as step.c does "finetune": bf16 autocast over f32 weights, channels last; as it is
   and compiled. (Without a card on the processor, only to see that it runs.)
   step.py CONFIG.json BATCH TOKENS"""
import json, statistics, sys, time
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch_card import device, reset_taken, taken, wait

config, batch, tokens = json.load(open(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(1)
torch.backends.cudnn.benchmark = True
model = UNet2DConditionModel.from_config(config).to(device, memory_format=torch.channels_last)
size = config["sample_size"]
x0, noise = (torch.randn(batch, config["in_channels"], size, size, device=device) for _ in "01")
text = torch.randn(batch, tokens, config["cross_attention_dim"], device=device)
scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def step(network):
    t = torch.randint(0, 1000, (batch,), device=device)
    x = scheduler.add_noise(x0, noise, t)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = network(x, t, text).sample
    loss = ((out.float() - noise) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


for name, network in ("eager", model), ("compiled", torch.compile(model)):
    reset_taken()
    for _ in range(3):
        step(network)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        loss = step(network)
        wait()
        seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds)
    print(f"torch {torch.__version__} {name}, finetune, batch {batch}: {1e3 * middle:.1f} ms a step "
          f"(best {1e3 * min(seconds):.1f}), {batch / middle:.2f} samples/s{taken()}, loss {loss:.4g}",
          flush=True)

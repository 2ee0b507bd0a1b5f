"""Networks of diffusers and transformers with random weights, as the models that people have are
configured: what they answer and every weight's gradient, against ours.
usage: check_models.py BUILD [NAME]     NAME: only cases whose names contain it"""
import os
import subprocess
import sys
import tempfile

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

BUILD = os.path.realpath(sys.argv[1])
ONLY = sys.argv[2] if len(sys.argv) > 2 else ""
# f32 sums in another order than torch's, through some sixty layers; gradients go through them twice.
FORWARD, GRADIENT = 2e-5, 2e-4


def shake(model):
    """Norms' gains and all biases away from what they begin with: a mistake with them would not show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.dim() == 1 else 0.02))
    return model.eval()


def last(x):
    return x.permute(0, 2, 3, 1).contiguous()


def file_layout(grad, weight):
    """K R S C as K C R S; a linear weight for a 1x1 convolution."""
    if grad.dim() == 4:
        grad = grad.permute(0, 3, 1, 2)
    return grad.reshape(weight.shape)


def distance(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-20))


def compare(name, kind, model, inputs, outputs):
    """outputs: by our names, the first is what the gradients are of."""
    torch.manual_seed(2)
    first = next(iter(outputs))
    target = torch.randn_like(outputs[first])
    model.zero_grad()
    ((outputs[first] - target) ** 2).mean().backward()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = next(f for f in os.listdir(folder) if f.endswith(".safetensors"))
        save_file({**inputs, "target": target}, os.path.join(folder, "in"))
        subprocess.run([os.path.join(BUILD, "run_model"), kind, *(os.path.join(folder, f) for f in
                        ("config.json", weights, "in", "out"))], check=True)
        ours = load_file(os.path.join(folder, "out"))
        names = set(load_file(os.path.join(folder, weights)))
    worst = {"forward": (0, ""), "gradient": (0, "")}
    for key, want in outputs.items():
        worst["forward"] = max(worst["forward"], (distance(ours[key], want.detach()), key))
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in grads.values())
    for key, grad in grads.items():
        if key not in names:
            continue
        got = file_layout(ours["grad." + key], grad)
        # Gradients that are nothing but rounding (a key's bias shifts all scores alike) say nothing.
        if float(grad.abs().max()) > 1e-6 * largest:
            worst["gradient"] = max(worst["gradient"], (distance(got, grad), key))
    for what, limit in (("forward", FORWARD), ("gradient", GRADIENT)):
        off, where = worst[what]
        print(f"{name}: {what} off by {off:.1e} ({where})")
        if not off < limit:
            sys.exit(f"FAILED: {name}: {what} of {where} is off by {off:.2e}")


# ---- UNets ----

def unet(name, size=16, batch=2, tokens=7, **config):
    config = dict(sample_size=size, norm_num_groups=8, cross_attention_dim=24, **config)
    torch.manual_seed(1)
    model = shake(diffusers.UNet2DConditionModel(**config))
    x = torch.randn(batch, config.get("in_channels", 4), size, size + 8)
    time = torch.tensor([3.0, 981.0])
    context = torch.randn(batch, tokens, 24)
    inputs = dict(x=last(x), time=time, context=context)
    added = condition = None
    if config.get("addition_embed_type"):
        added_time = config["addition_time_embed_dim"]
        sizes = torch.tensor([[512.0, 768.0, 0.0, 16.0, 512.0, 6.0], [32.0, 24.0, 1.0, 2.0, 3.0, 4.0]])
        pooled_width = 20
        sizes = sizes[:, : (config["projection_class_embeddings_input_dim"] - pooled_width) // added_time].contiguous()
        added = dict(text_embeds=torch.randn(batch, pooled_width), time_ids=sizes)
        inputs.update(pooled=added["text_embeds"], sizes=sizes)
    if config.get("time_cond_proj_dim"):
        condition = torch.randn(batch, config["time_cond_proj_dim"])
        inputs["guidance"] = condition
    out = model(x, time, context, timestep_cond=condition, added_cond_kwargs=added).sample
    compare(name, "unet", model, inputs, dict(out=last(out)))


CROSSED = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
PLAIN = "DownBlock2D", "UpBlock2D"


def blocks(*levels):
    return dict(down_block_types=[l[0] for l in levels], up_block_types=[l[1] for l in reversed(levels)])


def unets():
    yield "sd1", lambda n: unet(n, block_out_channels=[16, 32, 48, 48], layers_per_block=2, attention_head_dim=8,
                                **blocks(CROSSED, CROSSED, CROSSED, PLAIN))
    yield "sd1-inpaint", lambda n: unet(n, in_channels=9, block_out_channels=[16, 32], layers_per_block=1,
                                        attention_head_dim=8, **blocks(CROSSED, PLAIN))
    yield "sd2", lambda n: unet(n, block_out_channels=[16, 32, 48, 48], layers_per_block=2, use_linear_projection=True,
                                attention_head_dim=[2, 4, 6, 6], upcast_attention=True,
                                **blocks(CROSSED, CROSSED, CROSSED, PLAIN))
    sdxl = dict(block_out_channels=[16, 32, 64], attention_head_dim=[2, 4, 8], use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=8)
    yield "sdxl", lambda n: unet(n, layers_per_block=2, transformer_layers_per_block=[1, 2, 3],
                                 projection_class_embeddings_input_dim=20 + 6 * 8, **sdxl,
                                 **blocks(PLAIN, CROSSED, CROSSED))
    yield "sdxl-refiner", lambda n: unet(n, layers_per_block=2, transformer_layers_per_block=4, **sdxl,
                                         projection_class_embeddings_input_dim=20 + 5 * 8,
                                         **blocks(PLAIN, CROSSED, PLAIN))
    yield "ssd-1b", lambda n: unet(n, layers_per_block=2, transformer_layers_per_block=[0, [2, 2], [1, 3]],
                                   reverse_transformer_layers_per_block=[[1, 2, 3], [2, 1, 1], 0],
                                   mid_block_type="UNetMidBlock2D",
                                   projection_class_embeddings_input_dim=20 + 6 * 8, **sdxl,
                                   **blocks(PLAIN, CROSSED, CROSSED))
    yield "bk-sdm-small", lambda n: unet(n, block_out_channels=[16, 32, 48], layers_per_block=1, mid_block_type=None,
                                         attention_head_dim=8, **blocks(CROSSED, CROSSED, CROSSED))
    yield "uneven", lambda n: unet(n, block_out_channels=[16, 32, 48], layers_per_block=[1, 3, 2],
                                   attention_head_dim=8, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-3,
                                   **blocks(CROSSED, PLAIN, CROSSED))
    yield "lcm", lambda n: unet(n, block_out_channels=[16, 32], layers_per_block=1, attention_head_dim=8,
                                time_cond_proj_dim=12, **blocks(CROSSED, PLAIN))


# ---- Text encoders ----

def clip(name, projected, **config):
    config = dict(vocab_size=99, hidden_size=32, intermediate_size=80, num_attention_heads=4,
                  max_position_embeddings=13, bos_token_id=0, pad_token_id=1, **config)
    torch.manual_seed(1)
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    model = shake(kind(transformers.CLIPTextConfig(**config)))
    ids = torch.randint(3, 98, (3, 13))
    for row, end in enumerate((12, 5, 1)):
        ids[row, end:] = 98
    ends = torch.tensor([r * 13 + e for r, e in enumerate((12, 5, 1))], dtype=torch.int32)
    out = model(ids, output_hidden_states=True)
    outputs = dict(pooled=out.text_embeds if projected else out.pooler_output, last=out.last_hidden_state,
                   penultimate=out.hidden_states[-2])
    compare(name, "clip", model, dict(ids=ids.int(), ends=ends), outputs)


def clips():
    yield "clip-l", lambda n: clip(n, False, num_hidden_layers=3, hidden_act="quick_gelu", eos_token_id=2)
    yield "clip-l-projected", lambda n: clip(n, True, num_hidden_layers=2, hidden_act="quick_gelu", eos_token_id=98,
                                             projection_dim=32)
    yield "clip-g", lambda n: clip(n, True, num_hidden_layers=3, hidden_act="gelu", eos_token_id=2, projection_dim=20)
    yield "clip-h", lambda n: clip(n, False, num_hidden_layers=2, hidden_act="gelu", eos_token_id=98)


# ---- VAEs ----

def vae(name, levels=3, decode=False, **config):
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    torch.manual_seed(1)
    model = shake(diffusers.AutoencoderKL(down_block_types=down, up_block_types=up, norm_num_groups=8, **config))
    if decode:
        x = torch.randn(2, config.get("latent_channels", 4), 5, 7)
        outputs = dict(image=last(model.decode(x).sample))
    else:
        x = torch.randn(2, 3, 20, 28)
        moments = model.encode(x).latent_dist
        outputs = dict(mean=last(moments.mean), logvar=last(moments.logvar))
    compare(name, "vae_decoder" if decode else "vae_encoder", model, dict(x=last(x)), outputs)


def vaes():
    sd = dict(block_out_channels=[16, 32, 32], layers_per_block=2)
    flux = dict(sd, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1)
    yield "vae-sd-encode", lambda n: vae(n, **sd)
    yield "vae-sd-decode", lambda n: vae(n, decode=True, **sd)
    yield "vae-flux-encode", lambda n: vae(n, **flux)
    yield "vae-flux-decode", lambda n: vae(n, decode=True, **flux)
    yield "vae-no-attention", lambda n: vae(n, decode=True, mid_block_add_attention=False, **sd)


# ---- Transformers ----

def mmdit(name, **config):
    config = dict(sample_size=16, patch_size=2, in_channels=6, out_channels=6, num_layers=3, attention_head_dim=16,
                  num_attention_heads=2, caption_projection_dim=32, joint_attention_dim=20, pooled_projection_dim=12,
                  pos_embed_max_size=24, **config)
    torch.manual_seed(1)
    model = shake(diffusers.SD3Transformer2DModel(**config))
    x, context, pooled = torch.randn(2, 6, 16, 22), torch.randn(2, 5, 20), torch.randn(2, 12)
    time = torch.tensor([7.0, 981.5])
    out = model(x, context, pooled, time).sample
    compare(name, "mmdit", model, dict(x=last(x), time=time, context=context, pooled=pooled), dict(out=last(out)))


def pack(x):
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpack(x, h, w):
    n, _, c = x.shape
    return x.view(n, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, h, w)


def flux(name, guided, **config):
    config = dict(in_channels=12, num_layers=2, num_single_layers=2, attention_head_dim=24, num_attention_heads=2,
                  joint_attention_dim=20, pooled_projection_dim=12, axes_dims_rope=(4, 8, 12), guidance_embeds=guided)
    torch.manual_seed(1)
    model = shake(diffusers.FluxTransformer2DModel(**config))
    h, w, tokens = 8, 14, 5
    x, context, pooled = torch.randn(2, 3, h, w), torch.randn(2, tokens, 20), torch.randn(2, 12)
    time, guidance = torch.tensor([7.0, 981.5]), torch.tensor([3.5, 1.0])
    places = diffusers.FluxPipeline._prepare_latent_image_ids(2, h // 2, w // 2, "cpu", torch.float32)
    inputs = dict(x=last(x), time=time, context=context, pooled=pooled)
    if guided:
        inputs["guidance"] = guidance
    out = model(pack(x), context, pooled, time / 1000, places, torch.zeros(tokens, 3), guidance if guided else None).sample
    compare(name, "flux", model, inputs, dict(out=last(unpack(out, h, w))))


def transformers_of_images():
    yield "sd3-medium", mmdit
    yield "sd3.5-large", lambda n: mmdit(n, qk_norm="rms_norm")
    yield "sd3.5-medium", lambda n: mmdit(n, qk_norm="rms_norm", dual_attention_layers=(0, 1))
    yield "flux-dev", lambda n: flux(n, True)
    yield "flux-schnell", lambda n: flux(n, False)


count = 0
for family in (unets, clips, vaes, transformers_of_images):
    for case, check in family():
        if ONLY in case:
            check(case)
            count += 1
print(f"{count} networks against diffusers {diffusers.__version__}, transformers {transformers.__version__} passed")

"""Whole pipelines of diffusers with random weights, made here, beside `ckdistill sample` from the same noise: the final
latents of tiny Stable Diffusion, XL, 3 and FLUX models in several settings.
usage: check_pipelines.py BUILD [NAME]     NAME: only cases whose names contain it"""
import os
import shutil
import subprocess
import sys
import tempfile

import diffusers
import make_pipelines as make
import torch
import transformers
from safetensors.torch import load_file

diffusers.utils.logging.disable_progress_bar()
transformers.logging.disable_progress_bar()
BUILD = os.path.realpath(sys.argv[1])
ONLY = sys.argv[2] if len(sys.argv) > 2 else ""
# f32 sums in another order, through all steps, of latents' size.
LIMIT = 1e-4
HEIGHT, WIDTH = make.SIZE
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
CROSSED, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def unet(first, second, context, **config):
    return make.shake(diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=[16, 32], layers_per_block=1, norm_num_groups=4, cross_attention_dim=context,
        down_block_types=[first[0], second[0]], up_block_types=[second[1], first[1]], **config))


def run(name, pipe, noise, latents=None, cfg=make.CFG, **settings):
    """latents: the noise as the pipeline takes it, where that is another shape."""
    pipe.set_progress_bar_config(disable=True)
    out = pipe(make.PROMPT, num_inference_steps=make.STEPS, guidance_scale=cfg, height=HEIGHT, width=WIDTH,
               latents=noise if latents is None else latents, num_images_per_prompt=len(noise), output_type="latent",
               **settings).images
    if latents is not None:
        out = pipe._unpack_latents(out, HEIGHT, WIDTH, pipe.vae_scale_factor)
    make.save(name, pipe, noise, out)
    folder = os.path.join(make.OUT, name)
    ours = os.path.join(make.OUT, "ours.safetensors")
    subprocess.run(
        [os.path.join(BUILD, "ckdistill"), "sample", "--model", folder, "--prompt", make.PROMPT, "--negative",
         settings.get("negative_prompt", ""), "--steps", str(make.STEPS), "--cfg", str(cfg), "--size",
         f"{WIDTH}x{HEIGHT}", "-n", str(len(noise)), "-qf", "--latents-in", os.path.join(folder, "noise.safetensors"),
         "--latents-out", ours, "-o", os.path.join(make.OUT, "grid.png")], check=True)
    off = float((load_file(ours)["latents"] - out).abs().max() / out.abs().max())
    print(f"{name}: latents off by {off:.1e}")
    if not off < LIMIT:
        sys.exit(f"FAILED: {name}: final latents are off by {off:.2e}")


def noise_of(seed):
    torch.manual_seed(seed)
    return torch.randn(3, 4, HEIGHT // 2, WIDTH // 2)


def sd(name, scheduler, linear=False):
    noise = noise_of(1)
    encoder, words = make.clip(False, 16)
    network = unet(CROSSED, PLAIN, 16, attention_head_dim=4, use_linear_projection=linear)
    pipe = diffusers.StableDiffusionPipeline(make.vae(), encoder, words, network, scheduler, None, None,
                                             requires_safety_checker=False)
    run(name, pipe, noise, negative_prompt=make.NEGATIVE)


def sdxl(name, scheduler, negative=make.NEGATIVE):
    noise = noise_of(2)
    one, words_one = make.clip(False, 16)
    two, words_two = make.clip(True, 24)
    network = unet(PLAIN, CROSSED, 40, attention_head_dim=[2, 4], use_linear_projection=True,
                   transformer_layers_per_block=[1, 2], addition_embed_type="text_time", addition_time_embed_dim=8,
                   projection_class_embeddings_input_dim=24 + 6 * 8)
    pipe = diffusers.StableDiffusionXLPipeline(make.vae(), one, two, words_one, words_two, network, scheduler)
    run(name, pipe, noise, **(dict(negative_prompt=negative) if negative else {}))


def sd3(name, words, with_t5=True, **config):
    noise = noise_of(3)
    one, words_one = make.clip(True, 16)
    two, words_two = make.clip(True, 24)
    transformer = make.shake(diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=40, out_channels=4,
        pos_embed_max_size=16, **config))
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), make.vae(), one, words_one, two, words_two,
        make.t5(words) if with_t5 else None, words if with_t5 else None)
    run(name, pipe, noise, negative_prompt=make.NEGATIVE)


def flux(name, words, guided, scheduler):
    noise = noise_of(4)
    one, words_one = make.clip(False, 16)
    transformer = make.shake(diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=16, guidance_embeds=guided, axes_dims_rope=[4, 6, 6]))
    pipe = diffusers.FluxPipeline(scheduler, make.vae(), one, words_one, make.t5(words), words, transformer)
    packed = pipe._pack_latents(noise, *noise.shape)
    # Without an embedding of guidance FLUX's pipeline has none; ours would take two passes.
    run(name, pipe, noise, latents=packed, cfg=make.CFG if guided else 1)


def cases():
    words = make.t5_tokenizer()
    flow = diffusers.FlowMatchEulerDiscreteScheduler
    yield "sd-ddim", lambda n: sd(n, diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **BETAS))
    yield "sd-v", lambda n: sd(n, diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing", **BETAS), linear=True)
    yield "sd-dpm", lambda n: sd(n, diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, **BETAS))
    yield "sdxl-euler", lambda n: sdxl(n, diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **BETAS))
    # Without a negative prompt its text is zeros.
    yield "sdxl-plain", lambda n: sdxl(n, diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **BETAS), None)
    yield "sd3-medium", lambda n: sd3(n, words)
    yield "sd3.5-medium", lambda n: sd3(n, words, qk_norm="rms_norm", dual_attention_layers=(0, 1))
    yield "sd3-without-t5", lambda n: sd3(n, words, with_t5=False)
    yield "flux-dev", lambda n: flux(n, words, True, flow(shift=3.0, use_dynamic_shifting=True))
    yield "flux-schnell", lambda n: flux(n, words, False, flow(shift=1.0))


count = 0
make.OUT = tempfile.mkdtemp()
try:
    with torch.no_grad():
        for case, check in cases():
            if ONLY in case:
                check(case)
                count += 1
finally:
    shutil.rmtree(make.OUT)
print(f"{count} pipelines against diffusers {diffusers.__version__}, transformers {transformers.__version__} passed")

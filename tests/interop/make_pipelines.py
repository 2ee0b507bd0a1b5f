#!/usr/bin/env python3
"""Writes tests/data/pipelines: tiny SD3 and FLUX folders with random weights, and what diffusers' pipelines
make of noise with them; and T5's numbers of some prompts.

    python3 tests/interop/make_pipelines.py [FOLDER]        from the root of the tree; needs: torch, diffusers,
                                                            transformers

In FOLDER/sd3 and FOLDER/flux: the model, noise.safetensors and latents.safetensors (tensor `latents`), made with
the prompt and settings below, which tests/test_pipelines.c has too. FOLDER/t5.json: prompts and their numbers.
"""
import json
import os
import shutil
import sys

import diffusers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

OUT = sys.argv[1] if len(sys.argv) > 1 else "tests/data/pipelines"
WORDS = "tests/data/tokenizer"
PROMPTS = [case["prompt"] for case in json.load(open(os.path.join(WORDS, "cases.json")))]
PROMPT, NEGATIVE, STEPS, CFG, SIZE = "a photo of a cat", "bad, 8k", 4, 5.0, (16, 24)


def shake(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.dim() == 1 else 0.05))
    return model.eval()


def t5_tokenizer():
    plain = Tokenizer(models.Unigram())
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")])
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    # (Other letters stay unknown.)
    plain.train_from_iterator([p for p in PROMPTS if p.isascii()], trainer)
    plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>",
                                                unk_token="<unk>", model_max_length=512)


def clip(projected, width):
    size = len(json.load(open(os.path.join(WORDS, "vocab.json"))))
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    config = transformers.CLIPTextConfig(vocab_size=size, hidden_size=width, intermediate_size=2 * width,
                                         num_attention_heads=2, num_hidden_layers=2, projection_dim=width,
                                         hidden_act="gelu" if width == 24 else "quick_gelu", eos_token_id=size - 1,
                                         bos_token_id=size - 2, pad_token_id=size - 1)
    return shake(kind(config)), transformers.CLIPTokenizer(os.path.join(WORDS, "vocab.json"),
                                                           os.path.join(WORDS, "merges.txt"), model_max_length=77)


def t5(words):
    return shake(transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=len(words) + 4, d_model=48, d_kv=10, d_ff=64, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu")))


def vae():
    return shake(diffusers.AutoencoderKL(
        block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False,
        scaling_factor=0.36, shift_factor=0.12))


def save(name, pipe, noise, latents):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    for part in os.listdir(folder):
        if part.startswith("tokenizer") and "tokenizer.json" in os.listdir(os.path.join(folder, part)):
            kind = json.load(open(os.path.join(folder, part, "tokenizer.json")))["model"]["type"]
            if kind == "BPE":  # as folders of models have them
                for file in "vocab.json", "merges.txt":
                    shutil.copy(os.path.join(WORDS, file), os.path.join(folder, part))
                os.remove(os.path.join(folder, part, "tokenizer.json"))
    save_file({"latents": noise.contiguous()}, os.path.join(folder, "noise.safetensors"))
    save_file({"latents": latents.contiguous()}, os.path.join(folder, "latents.safetensors"))
    print(name, f"{latents.abs().max():.3f}")


def sd3(words):
    torch.manual_seed(1)
    one, words_one = clip(True, 16)
    two, words_two = clip(True, 24)
    transformer = shake(diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=40, out_channels=4,
        pos_embed_max_size=16))
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae(), one, words_one, two, words_two,
        t5(words), words)
    noise = torch.randn(2, 4, SIZE[0] // 2, SIZE[1] // 2)
    latents = pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=CFG, height=SIZE[0],
                   width=SIZE[1], latents=noise, num_images_per_prompt=2, output_type="latent").images
    save("sd3", pipe, noise, latents)


def flux(words):
    torch.manual_seed(2)
    one, words_one = clip(False, 16)
    transformer = shake(diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=[4, 6, 6]))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = diffusers.FluxPipeline(scheduler, vae(), one, words_one, t5(words), words, transformer)
    h, w = SIZE[0] // 2, SIZE[1] // 2
    noise = torch.randn(2, 4, h, w)
    packed = pipe._pack_latents(noise, 2, 4, h, w)
    latents = pipe(PROMPT, num_inference_steps=STEPS, guidance_scale=CFG, height=SIZE[0], width=SIZE[1], latents=packed,
                   num_images_per_prompt=2, output_type="latent").images
    latents = pipe._unpack_latents(latents, SIZE[0], SIZE[1], pipe.vae_scale_factor)
    save("flux", pipe, noise, latents)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    words = t5_tokenizer()
    # (This tokenizer has no table of characters; that of make_spiece.py has.)
    prompts = [p for p in PROMPTS if "\x01" not in p and "\u200b" not in p and "𝔘" not in p and "½" not in p]
    cases = [{"prompt": p, "ids": words(p, padding="max_length", max_length=64, truncation=True).input_ids}
             for p in prompts]
    with open(os.path.join(OUT, "t5.json"), "w") as f:
        json.dump(cases, f, ensure_ascii=True, indent=0)
        f.write("\n")
    with torch.no_grad():
        sd3(words)
        flux(words)

#!/usr/bin/env python3
"""Writes tests/data/sampling/samplers.json: what the samplers of diffusers do with given answers of a model.

    python3 tests/interop/make_samplers.py [MODEL PARITY]     from the root of the tree; needs: diffusers 0.42

Samplers work element by element, so a few elements are a whole test. The answers are those of a
closed formula that depends on state and time; with MODEL (a diffusers folder) and PARITY (its recorded
trajectories) also those of a trained model along them. Fresh noise is Philox's, written here a second
time, from libm.
"""
import json
import math
import sys

import diffusers
import numpy as np
import torch

ELEMENTS, SEED = 5, 1234
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading")


def philox(seed, step, stream, index):
    key, counter = [seed & 0xFFFFFFFF, seed >> 32], [index & 0xFFFFFFFF, index >> 32, stream, step]
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def normals(step):
    out = []
    for index in range((ELEMENTS + 3) // 4):
        w = philox(SEED, step, 0, index)
        for a, b in ((w[0], w[1]), (w[2], w[3])):
            radius, angle = math.sqrt(-2 * math.log((a + 0.5) / 2**32)), 2 * math.pi * b / 2**32
            out += [radius * math.cos(angle), radius * math.sin(angle)]
    return torch.tensor(out[:ELEMENTS], dtype=torch.float32)


fresh = None


def use_philox(name):
    module = sys.modules[getattr(diffusers, name).__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = lambda *a, **k: fresh


def numbers(tensor):
    return [float(f"{x:.9g}") for x in tensor.flatten().tolist()]


def start(scheduler, steps, **set_timesteps):
    scheduler.set_timesteps(steps, **set_timesteps)
    # Timesteps can be there twice, and then some schedulers lose their place without this.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def case(sampler, name, settings, steps, eta=None, tokens=0, **set_timesteps):
    """One run; settings are the scheduler's, and what is recorded is what the C side reads."""
    global fresh
    use_philox(name)
    scheduler = getattr(diffusers, name)(**settings)
    start(scheduler, steps, **set_timesteps)
    x = normals(0) * getattr(scheduler, "init_noise_sigma", 1)
    run = dict(sampler=sampler, config=scheduler.to_json_string(), tokens=tokens, timesteps=[], inputs=[], outputs=[], states=[numbers(x)])
    if eta is not None:
        run["eta"] = eta
    for i, t in enumerate(scheduler.timesteps):
        fresh = normals(i + 1)
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = torch.sin(1.7 * scaled + 0.003 * float(t)) + 0.1 * scaled
        x = scheduler.step(output, t, x, **({} if eta is None else {"eta": eta})).prev_sample
        run["timesteps"].append(float(t))
        run["inputs"].append(numbers(scaled))
        run["outputs"].append(numbers(output))
        run["states"].append(numbers(x))
    cases.append(run)


cases = []
D, E, A, P, L, T, F = (
    "DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
    "LCMScheduler", "TCDScheduler", "FlowMatchEulerDiscreteScheduler",
)
latent = SD | dict(clip_sample=False, set_alpha_to_one=False)
v = dict(prediction_type="v_prediction")
zero = v | dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
sample = dict(prediction_type="sample")
for spacing in ("leading", "trailing", "linspace"):
    spaced = dict(timestep_spacing=spacing)
    case("ddim", D, latent | spaced, 6)
    case("euler", E, SD | spaced, 6)
    case("euler_a", A, SD | spaced, 6)
    case("dpmpp_2m", P, SD | spaced, 6)
case("ddim", D, latent, 6, eta=1.0)
case("ddim", D, latent | v, 7, eta=0.4)
case("ddim", D, latent | sample, 5)
case("ddim", D, latent | zero, 5, eta=1.0)
case("ddim", D, dict(), 6)  # clips, linear betas
case("ddim", D, dict(beta_schedule="squaredcos_cap_v2", clip_sample_range=0.5), 4)
case("ddim", D, latent | dict(timestep_spacing="trailing"), 1)
case("euler", E, SD | dict(use_karras_sigmas=True), 7)
case("euler", E, SD | v, 5)
case("euler", E, SD | sample | dict(final_sigmas_type="sigma_min"), 5)
case("euler", E, SD | zero, 5)
case("euler_a", A, SD | v, 5)
case("dpmpp_2m", P, SD | dict(use_karras_sigmas=True), 10)
case("dpmpp_2m", P, SD | dict(use_karras_sigmas=True), 16)
case("dpmpp_2m", P, SD | dict(use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2"), 5)
case("dpmpp_2m", P, SD | v | dict(final_sigmas_type="sigma_min"), 16)
case("dpmpp_2m", P, SD | zero, 6)
case("dpmpp_2m", P, SD | sample, 1)
case("lcm", L, dict(), 4)
case("lcm", L, v | dict(original_inference_steps=30, clip_sample=True), 7)
case("lcm", L, sample, 1)
case("tcd", T, dict(), 4, eta=0.3)
case("tcd", T, v, 5, eta=0.0)
case("tcd", T, sample, 3, eta=1.0)
case("flow_euler", F, dict(shift=3.0), 5)
case("flow_euler", F, dict(), 1)
case("flow_euler", F, dict(use_dynamic_shifting=True), 4, tokens=1024, mu=0.5 + 0.65 * (1024 - 256) / 3840)


def recorded(sampler, file, scheduler):
    """A recorded trajectory, with the answers that the model gives along it."""
    from safetensors import safe_open
    from transformers import CLIPTextModel

    letters = {c: i + 3 for i, c in enumerate("abcdefghijklmnopqrstuvwxyz -")}
    unet = diffusers.UNet2DConditionModel.from_pretrained(model + "/unet")
    text = CLIPTextModel.from_pretrained(model + "/text_encoder")

    def encode(prompt):
        ids = [1] + [letters[c] for c in prompt] + [2]
        return text(torch.tensor([ids + [2] * (16 - len(ids))])).last_hidden_state

    with safe_open(f"{parity}/{file}.safetensors", "pt") as f:
        states, timesteps, meta = f.get_tensor("trajectory"), f.get_tensor("timesteps"), f.metadata()
    start(scheduler, len(timesteps))
    states[0] *= scheduler.init_noise_sigma
    condition = torch.cat([encode(meta["negative"]), encode(meta["prompt"])])
    pick = torch.tensor([0, 333, 500, 777, 1023])
    run = dict(sampler=sampler, config=scheduler.to_json_string(), recorded=file, tokens=0, timesteps=numbers(timesteps), inputs=[],
               outputs=[], states=[numbers(s.flatten()[pick]) for s in states])
    for i, t in enumerate(scheduler.timesteps):
        assert float(t) == float(timesteps[i]), (file, t, timesteps[i])
        x = scheduler.scale_model_input(states[i], t)
        without, with_prompt = unet(x.repeat(2, 1, 1, 1), t, condition).sample.chunk(2)
        output = without + float(meta["cfg"]) * (with_prompt - without)
        following = scheduler.step(output, t, states[i]).prev_sample
        # The settings are those of the recording (the Euler one is linspace, whatever its name says).
        assert (following - states[i + 1]).abs().max() < 5e-6 * states[i].abs().max(), (file, i)
        run["inputs"].append(numbers(x.flatten()[pick]))
        run["outputs"].append(numbers(output.flatten()[pick]))
    cases.append(run)


if len(sys.argv) == 3:
    model, parity = sys.argv[1:]
    with torch.no_grad():
        recorded("ddim", "sample_ddim10_leading", diffusers.DDIMScheduler(**latent))
        recorded("ddim", "sample_ddim10_trailing", diffusers.DDIMScheduler(**latent | dict(timestep_spacing="trailing")))
        recorded("euler", "sample_euler10_leading", diffusers.EulerDiscreteScheduler(**SD | dict(timestep_spacing="linspace")))
        recorded("dpmpp_2m", "sample_dpmpp2m_karras10", diffusers.DPMSolverMultistepScheduler(**SD | dict(use_karras_sigmas=True)))

with open("tests/data/sampling/samplers.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")

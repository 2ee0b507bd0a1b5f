#!/usr/bin/env python3
"""Writes tests/data/sampling/schedules.json: noise schedules as diffusers computes them.

    python3 tests/interop/make_schedules.py     from the root of the tree; needs: diffusers 0.42

Configurations are written as diffusers writes them, so that reading them is tested too.
"""
import json

import diffusers
import numpy as np

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
out = {"schedules": [], "spacings": [], "karras": [], "shifts": []}

for cls, settings in (
    ("DDIMScheduler", SD | dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1)),
    ("DDIMScheduler", SD | dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")),
    ("DDIMScheduler", {}),
    ("DDIMScheduler", dict(rescale_betas_zero_snr=True)),
    ("PNDMScheduler", dict(beta_schedule="squaredcos_cap_v2")),
    ("EulerDiscreteScheduler", dict(num_train_timesteps=37)),
    ("DPMSolverMultistepScheduler", SD | dict(use_karras_sigmas=True)),
    ("LCMScheduler", {}),
):
    scheduler = getattr(diffusers, cls)(**settings)
    out["schedules"].append(
        {"config": scheduler.to_json_string(), "abar": [float(np.float32(a)) for a in scheduler.alphas_cumprod[::9]]}
    )

# Few timesteps in full, and every possible number of them in a sum that depends on each and its place.
for spacing in ("leading", "trailing", "linspace"):
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    lists, sums = [], []
    for n in range(1, 1001):
        scheduler.set_timesteps(n)
        t = scheduler.timesteps.tolist()
        # Where 1000 / n is rounded down, trailing gives one too many: timestep -1, which is none.
        assert t[n:] in ([], [-1])
        t = t[:n]
        if n < 9:
            lists.append(t)
        sums.append(sum((i + 1) * x for i, x in enumerate(t)))
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(7)
    hundreds = [sum((n % 100 + 1) * s for n, s in enumerate(sums[h : h + 100], h)) for h in range(0, 1000, 100)]
    out["spacings"].append({"lists": lists, "sums": hundreds, "unrounded": scheduler.timesteps.tolist()})

euler = diffusers.EulerDiscreteScheduler()
for high, low, n in ((80.0, 0.002, 18), (14.614641, 0.029167, 10), (3.0, 1.0, 1)):
    out["karras"].append([high, low] + euler._convert_to_karras(np.array([high, low]), n).tolist())

t = np.linspace(1, 0.25, 4)
for settings, tokens in ((dict(shift=3.0), 0), (dict(use_dynamic_shifting=True), 4096), (dict(use_dynamic_shifting=True, time_shift_type="linear"), 1024)):
    flow = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    c = flow.config
    mu = c.base_shift + (c.max_shift - c.base_shift) * (tokens - c.base_image_seq_len) / (c.max_image_seq_len - c.base_image_seq_len)
    flow.set_timesteps(sigmas=t, mu=mu if settings.get("use_dynamic_shifting") else None)
    out["shifts"].append({"config": flow.to_json_string(), "tokens": tokens, "t": flow.sigmas.tolist()[:-1]})

with open("tests/data/sampling/schedules.json", "w") as f:
    f.write(json.dumps(out, indent=0) + "\n")

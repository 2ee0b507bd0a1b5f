"""The configs that we make for models out of one file: diffusers and transformers must make networks of
them that have exactly the tensors that our files have, names and shapes.

    python tests/interop/check_configs.py BUILD        (make interop runs it)
"""
import json
import subprocess
import sys

import diffusers
import torch
import transformers


def state_of(config):
    """Names and shapes of the network's tensors; nothing is allocated."""
    with torch.device("meta"):
        if "_class_name" in config:
            net = getattr(diffusers, config["_class_name"]).from_config(config)
        else:
            name = config["architectures"][0]
            kind = transformers.T5Config if name.startswith("T5") else transformers.CLIPTextConfig
            fields = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
            net = getattr(transformers, name)(kind(**fields))
    state = {k: list(v.shape) for k, v in net.state_dict().items()}
    state.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
    if config.get("architectures") == ["CLIPTextModel"]:  # newer versions lack the level
        state = {k if k.startswith("text_model.") else "text_model." + k: v for k, v in state.items()}
    return state


def check(case, prefix, config, tensors):
    tensors.pop("text_model.embeddings.position_ids", None)  # a buffer that is not loaded
    want = state_of(config)
    assert want == tensors, (case, prefix, sorted(want.items() ^ tensors.items())[:4])


def main():
    out = subprocess.run([sys.argv[1] + "/print_configs"], capture_output=True, text=True, check=True)
    checked, case, config, tensors = 0, None, None, {}
    for line in out.stdout.splitlines() + ["case\tend"]:
        what, first, *rest = line.split("\t")
        if what == "tensor":
            tensors[first] = json.loads(rest[0])
            continue
        if config:
            check(case, prefix, config, tensors)
            checked += 1
        config, tensors = None, {}
        if what == "case":
            case = first
        elif what == "config":
            prefix, config = first, json.loads(rest[0])
        elif what == "index":  # a pipeline or a scheduler
            fields = json.loads(rest[0])
            known = getattr(diffusers, fields["_class_name"])
            if first == "scheduler":
                known.from_config(fields)
    assert checked >= 30, checked
    print(f"configs: {checked} networks have the tensors that diffusers and transformers want")


main()

"""Compares two Hugging Face directories through transformers: equal logits on random tokens, or exit status 6.

python3 tests/golden/hf_roundtrip.py ORIGINAL EXPORTED [--tolerance 0]   (relative to the logits' range)
With reference.safetensors in ORIGINAL its input ids are used instead of random ones.
"""
import argparse
import pathlib
import sys

import safetensors.torch
import torch
import transformers


def load(path):
    config = transformers.AutoConfig.from_pretrained(path)
    kind = transformers.AutoModelForMaskedLM if config.model_type == "bert" else transformers.AutoModelForCausalLM
    model, info = kind.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            sys.exit(f"{path}: {key}: {sorted(info[key])}")
    return model.eval()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("original")
    p.add_argument("exported")
    p.add_argument("--tolerance", type=float, default=0)
    a = p.parse_args()
    original, exported = load(a.original), load(a.exported)
    reference = pathlib.Path(a.original) / "reference.safetensors"
    if reference.exists():
        ids = safetensors.torch.load_file(reference)["input_ids"].long()
    else:
        length = min(32, original.config.max_position_embeddings)
        ids = torch.randint(original.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x, y = original(ids).logits, exported(ids).logits
    difference, span = (x - y).abs().max().item(), (x.max() - x.min()).item()
    print(f"{original.config.model_type}: max difference {difference:.3g} of a range of {span:.4g}")
    sys.exit(6 if difference > a.tolerance * span else 0)


main()

"""Writes hf_logits.json: tiny models of each family, their tensors' names and shapes, and the logits transformers gives.

Run with transformers 5 and torch: python3 tests/golden/hf_logits.py. Weights follow a formula that the test repeats.
"""
import json
import math
import pathlib

import torch
import transformers

V, T = 23, 7
IDS = [(7 * i + 3) % V for i in range(T)]


def fnv(text):
    h = 0xCBF29CE484222325
    for c in text.encode():
        h = ((h ^ c) * 0x100000001B3) % 2**64
    return h


def weight(name, shape):
    n = math.prod(shape)
    u = (0.618033988749895 * torch.arange(1, n + 1, dtype=torch.float64) + (fnv(name) % 1000) / 1000) % 1
    one = 1 if len(shape) == 1 and name.endswith("weight") else 0
    return (0.3 * (2 * u - 1) + one).reshape(shape)


CONFIGS = {
    "gpt2": transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, n_positions=16, vocab_size=V),
    "llama": transformers.LlamaConfig(
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=16, intermediate_size=24,
        vocab_size=V, max_position_embeddings=16, rope_theta=500.0),
    "bert": transformers.BertConfig(
        num_hidden_layers=2, num_attention_heads=2, hidden_size=8, intermediate_size=16, vocab_size=V,
        max_position_embeddings=16),
    "deepseek_v2": transformers.DeepseekV2Config(
        num_hidden_layers=2, num_attention_heads=2, hidden_size=16, intermediate_size=24, vocab_size=V,
        max_position_embeddings=16, kv_lora_rank=12, q_lora_rank=None, qk_nope_head_dim=4, qk_rope_head_dim=4,
        v_head_dim=6, first_k_dense_replace=2, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8,
        n_shared_experts=1, num_key_value_heads=2, head_dim=4),
}
MODELS = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM,
          "bert": transformers.BertForMaskedLM, "deepseek_v2": transformers.DeepseekV2ForCausalLM}


def main():
    out = {}
    for family, config in CONFIGS.items():
        model = MODELS[family](config).double().eval()
        tied = set(getattr(model, "all_tied_weights_keys", {}))
        tensors = {k: v for k, v in model.state_dict().items() if k not in tied}
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(weight(name, tensor.shape))
            logits = model(torch.tensor([IDS])).logits[0]
        keep = json.loads(config.to_json_string(use_diff=False))
        out[family] = {"config": keep, "ids": IDS, "tensors": {k: list(v.shape) for k, v in tensors.items()},
                       "logits": [float(f"{x:.9g}") for x in logits.flatten().tolist()]}
    path = pathlib.Path(__file__).with_name("hf_logits.json")
    path.write_text(json.dumps(out) + "\n")


main()

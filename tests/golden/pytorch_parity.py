#!/usr/bin/env python3
"""Twenty steps of AdamW with clipping in PyTorch, for parity_test.cpp: python3 tests/golden/pytorch_parity.py > tests/golden/parity.json

The weights are a formula both sides evaluate: element i of the parameter with FNV-1a hash h of its path is
std * sqrt(3) * (2 u - 1), u = frac(0.618033988749895 (i + 1) + (h mod 1000) / 1000), plus 1 for norm weights.
"""
import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(2)
V, C, H, HKV, L, T, B, FF = 61, 32, 4, 2, 2, 24, 4, 64
STEPS, LR, BETAS, EPS, DECAY, CLIP = 20, 3e-3, (0.9, 0.95), 1e-8, 0.1, 1.0


def fnv(text):
    h = 0xCBF29CE484222325
    for c in text.encode():
        h = ((h ^ c) * 0x100000001B3) & (2**64 - 1)
    return h


def weight(path, *shape):
    n = int(np.prod(shape))
    u = np.modf(0.618033988749895 * np.arange(1, n + 1, dtype=np.float64) + (fnv(path) % 1000) / 1000)[0]
    value = 0.05 * math.sqrt(3.0) * (2 * u - 1)
    if "norm" in path and path.endswith("weight"):
        value = value + 1
    return torch.tensor(value.reshape(shape).astype(np.float32), requires_grad=True)


class Model:
    def __init__(self, family):
        self.family, self.p = family, {}
        self.bias = family != "llama"
        self.hkv = HKV if family == "llama" else H

    def __call__(self, path, *shape):
        if path not in self.p:
            self.p[path] = weight(path, *shape)
        return self.p[path]

    def linear(self, path, x, out):
        return F.linear(x, self(path + "/weight", out, x.shape[-1]), self(path + "/bias", out) if self.bias or path == "transform" else None)

    def norm(self, path, x):
        if self.family == "llama":
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self(path + "/weight", C)
        return F.layer_norm(x, (C,), self(path + "/weight", C), self(path + "/bias", C), 1e-5)

    def attention(self, path, x):
        D = C // H
        q = self.linear(path + "/q", x, C).view(B, T, H, D).transpose(1, 2)
        k = self.linear(path + "/k", x, self.hkv * D).view(B, T, self.hkv, D).transpose(1, 2)
        v = self.linear(path + "/v", x, self.hkv * D).view(B, T, self.hkv, D).transpose(1, 2)
        if self.family == "llama":
            angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, D, 2) / D)[None, :]
            cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
            turn = lambda z: z * cos + torch.cat([-z[..., D // 2:], z[..., : D // 2]], -1) * sin
            q, k = turn(q), turn(k)
            k, v = k.repeat_interleave(H // HKV, 1), v.repeat_interleave(H // HKV, 1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=self.family != "bert")
        return self.linear(path + "/out", o.transpose(1, 2).reshape(B, T, C), C)

    def mlp(self, path, x):
        h = self.linear(path + "/up", x, FF)
        if self.family == "llama":
            h = F.silu(self.linear(path + "/gate", x, FF)) * h
        else:
            h = F.gelu(h, approximate="tanh" if self.family == "gpt2" else "none")
        return self.linear(path + "/down", h, C)

    def logits(self, ids):
        tokens = self("tokens", V, C)
        x = F.embedding(ids, tokens)
        if self.family != "llama":
            x = x + self("positions", T, C)[:T]
        if self.family == "bert":
            x = self.norm("embedding_norm", x + self("types", 2, C)[0])
        for i in range(L):
            p = f"layers/{i}/"
            if self.family == "bert":
                x = self.norm(p + "attention_norm", x + self.attention(p + "attention", x))
                x = self.norm(p + "mlp_norm", x + self.mlp(p + "mlp", x))
            else:
                x = x + self.attention(p + "attention", self.norm(p + "attention_norm", x))
                x = x + self.mlp(p + "mlp", self.norm(p + "mlp_norm", x))
        if self.family == "bert":
            x = self.norm("transform_norm", F.gelu(self.linear("transform", x, C)))
            return F.linear(x, tokens, self("head_bias", V))
        x = self.norm("norm", x)
        return F.linear(x, self("head", V, C) if self.family == "llama" else tokens)


def batch(step):
    i = np.arange(B * T, dtype=np.int64) + 1000 * step
    ids = (i * i * 31 + i * 17 + 7) % V
    targets = (ids * 5 + 3) % V
    targets[i % 7 == 0] = -100
    return torch.tensor(ids.reshape(B, T)), torch.tensor(targets)


def run(family):
    model = Model(family)
    model.logits(batch(0)[0])  # creates the parameters
    decay = [p for p in model.p.values() if p.dim() >= 2]
    other = [p for p in model.p.values() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": DECAY}, {"params": other, "weight_decay": 0.0}], lr=LR, betas=BETAS, eps=EPS)
    losses = []
    for step in range(STEPS):
        ids, targets = batch(step)
        loss = F.cross_entropy(model.logits(ids).view(-1, V), targets, ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.p.values()), CLIP)
        optimizer.step()
        losses.append(loss.item())
    final = {path: {"norm": p.detach().double().norm().item(), "first": [float(x) for x in p.detach().flatten()[:8]]} for path, p in model.p.items()}
    return {"losses": losses, "weights": final}


json.dump({"torch": torch.__version__, **{f: run(f) for f in ("gpt2", "llama", "bert")}}, sys.stdout, indent=0)

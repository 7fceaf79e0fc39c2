#!/usr/bin/env python3
"""A nanoGPT-shaped training step in PyTorch, beside `basis bench step`: same shapes, f32, medians.

  python3 tests/bench/pytorch_step.py --batch 12 --seq 64 --heads 4 --head-dim 32 --layers 4 --vocab 65 [--compile]
"""
import argparse
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

a = argparse.ArgumentParser()
for name, value in dict(batch=12, seq=64, heads=4, head_dim=32, layers=4, vocab=65, repeats=50, threads=2).items():
    a.add_argument("--" + name.replace("_", "-"), type=int, default=value)
a.add_argument("--compile", action="store_true")
a = a.parse_args()
torch.set_num_threads(a.threads)
C = a.heads * a.head_dim


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.up, self.down = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x):
        q, k, v = (z.view(a.batch, a.seq, a.heads, a.head_dim).transpose(1, 2) for z in self.qkv(self.n1(x)).split(C, 2))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(a.batch, a.seq, C)
        x = x + self.out(o)
        return x + self.down(F.gelu(self.up(self.n2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(a.vocab, C), nn.Embedding(a.seq, C)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(a.layers)), nn.LayerNorm(C, bias=False)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight
        for b in self.blocks:
            x = b(x)
        return F.cross_entropy(F.linear(self.norm(x), self.tokens.weight).view(-1, a.vocab), targets.view(-1))


model = Gpt()
step_model = torch.compile(model) if a.compile else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
ids = torch.randint(a.vocab, (a.batch, a.seq))


def step():
    optimizer.zero_grad(set_to_none=True)
    step_model(ids, ids).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


for _ in range(5):
    step()
times = []
for _ in range(a.repeats):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
median = statistics.median(times)
print(f"pytorch {torch.__version__}{' compiled' if a.compile else ''}: {median * 1e3:.3f} ms, {a.batch * a.seq / median:.0f} tokens/s")

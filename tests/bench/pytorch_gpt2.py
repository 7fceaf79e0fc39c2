#!/usr/bin/env python3
"""One training step of GPT-2 124M in bf16: basis beside PyTorch with torch.compile, one after the other on one GPU.

  python3 tests/bench/pytorch_gpt2.py [--basis build-cuda/basis] [--batch 32] [--seq 1024] [--repeats 20]

Same shapes (biases, tied head, vocabulary 50304), AdamW with clipping at 1.0 in both, random tokens, medians of single
steps by device events. PyTorch: bf16 autocast, fused AdamW, torch.compile, scaled_dot_product_attention.
"""
import argparse
import json
import statistics
import subprocess

parser = argparse.ArgumentParser()
parser.add_argument("--basis", default="build-cuda/basis")
parser.add_argument("--config", default="configs/gpt2_124m.yaml")
parser.add_argument("--set", nargs="*", default=[], help="key.path=value for basis")
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--seq", type=int, default=1024)
parser.add_argument("--repeats", type=int, default=20)
parser.add_argument("--graph", action="store_true", help="basis replays its step as a CUDA graph")
args = parser.parse_args()

ours = subprocess.run([args.basis, "bench", "step", "--device", "cuda", "--json", "--repeats", str(args.repeats), "--config",
                       args.config, "--set", f"train.micro_batch={args.batch}", f"data.seq_len={args.seq}", *args.set] + ["--graph"] * args.graph,
                      capture_output=True, text=True)
if ours.returncode:
    raise SystemExit(ours.stderr)
ours = json.loads(ours.stdout)["rows"][0]
print(f"basis    {ours['ms']:8.2f} ms  {ours['tokens_per_s']:9.0f} tok/s  {ours['tflops']:6.1f} TFLOP/s  "
      f"peak {ours['peak_mib']:7.0f} MiB  {ours['parameters']} parameters", flush=True)

import torch
import torch.nn as nn
import torch.nn.functional as F

L, H, C, V = 12, 12, 768, 50304
torch.manual_seed(0)
torch.set_float32_matmul_precision("high")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (z.view(B, T, H, C // H).transpose(1, 2) for z in self.qkv(self.n1(x)).split(C, 2))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = x + self.out(o)
        return x + self.down(F.gelu(self.up(self.n2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(V, C), nn.Embedding(args.seq, C)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(L)), nn.LayerNorm(C)
        self.head = nn.Linear(C, V, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).view(-1, V), targets.view(-1))


model = Gpt().cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
compiled = torch.compile(model)
ids = torch.randint(V, (args.batch, args.seq), device="cuda")


def step():
    with torch.autocast("cuda", torch.bfloat16):
        loss = compiled(ids, ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


for _ in range(5):
    step()
torch.cuda.synchronize()
torch.cuda.reset_peak_memory_stats()
times = []
for _ in range(args.repeats):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step()
    end.record()
    end.synchronize()
    times.append(begin.elapsed_time(end))
ms = statistics.median(times)
peak = torch.cuda.max_memory_allocated() / 2**20
print(f"PyTorch  {ms:8.2f} ms  {args.batch * args.seq / ms * 1e3:9.0f} tok/s  peak {peak:7.0f} MiB  torch {torch.__version__}")
print(f"{torch.cuda.get_device_name()}, B {args.batch}, T {args.seq}: basis / PyTorch: speed {ms / ours['ms']:.3f}, "
      f"peak memory {ours['peak_mib'] / peak:.3f}")

#!/usr/bin/env python3
"""Training steps in bf16: basis beside PyTorch with torch.compile, one after the other on one GPU.

  python3 tests/bench/pytorch_gpt2.py [CASE...] [--basis build-cuda/basis] [--seq 1024] [--repeats 20] [--no-torch]

A case is MODEL[-bd]:BATCH; default gpt2:32. Models: gpt2 (124M, biases, tied head, vocabulary 50304, or gpt2-50257) and
llama300m (RMSNorm, SwiGLU, rotary positions, own head, vocabulary 32000); -bd: basis with the BD projector, beside
PyTorch's dense one. Same shapes, AdamW with clipping at 1.0 in both, random tokens, medians of single steps by device
events, and the mean over two seconds of steps queued in a row, as training queues them, when the clock is steady.
PyTorch: bf16 autocast, fused AdamW, torch.compile, scaled_dot_product_attention.
"""
import argparse
import json
import statistics
import subprocess

parser = argparse.ArgumentParser()
parser.add_argument("cases", nargs="*", default=["gpt2:32"])
parser.add_argument("--basis", default="build-cuda/basis")
parser.add_argument("--set", nargs="*", default=[], help="key.path=value for basis")
parser.add_argument("--seq", type=int, default=1024)
parser.add_argument("--repeats", type=int, default=20)
parser.add_argument("--no-graph", action="store_true", help="basis submits each step anew")
parser.add_argument("--no-torch", action="store_true", help="basis alone")
parser.add_argument("--no-basis", action="store_true", help="PyTorch alone")
args = parser.parse_args()

SHAPES = {  # layers, heads, channels, hidden, vocabulary
    "gpt2": ("configs/gpt2_124m.yaml", 12, 12, 768, 3072, 50304),
    "gpt2-50257": ("configs/gpt2_124m.yaml", 12, 12, 768, 3072, 50257),
    "llama300m": ("configs/llama_300m.yaml", 18, 16, 1024, 2816, 32000),
}


def run_basis(model, bd, batch):
    sets = [f"train.micro_batch={batch}", f"data.seq_len={args.seq}", f"model.vocab_size={SHAPES[model][5]}", *args.set]
    if bd:
        sets += ["model.attention.projector.type=bd"] + (["model.attention.projector.qk=false"] if model == "llama300m" else [])
    done = subprocess.run([args.basis, "bench", "step", "--device", "cuda", "--json", "--repeats", str(args.repeats), "--config",
                           SHAPES[model][0], "--set", *sets] + ["--no-graph"] * args.no_graph, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    row = json.loads(done.stdout)["rows"][0]
    print(f"  basis    {row['ms']:8.2f} ms, {row['in_a_row_ms']:.2f} in a row  {row['tokens_per_s']:9.0f} tok/s  {row['tflops']:6.1f} TFLOP/s  "
          f"peak {row['peak_mib']:7.0f} MiB  {row['parameters']} parameters")
    for kind, k in sorted(row.get("kernels", {}).get("kinds", {}).items(), key=lambda i: -i[1]["ms"]):
        print(f"    {k['ms']:8.3f} ms {k['launches']:5d} launches  {k.get('idle_ms', 0):6.3f} ms idle before  {kind}")
    return row


def run_torch(model, batch):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    _, layers, heads, C, hidden, V = SHAPES[model]
    llama = model.startswith("llama")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.reset()

    def norm():
        return nn.RMSNorm(C) if llama else nn.LayerNorm(C)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.n2 = norm(), norm()
            self.qkv, self.out = nn.Linear(C, 3 * C, bias=not llama), nn.Linear(C, C, bias=not llama)
            self.up, self.down = nn.Linear(C, hidden, bias=not llama), nn.Linear(hidden, C, bias=not llama)
            if llama:
                self.gate = nn.Linear(C, hidden, bias=False)

        def forward(self, x, turn):
            B, T, _ = x.shape
            q, k, v = (z.view(B, T, heads, C // heads).transpose(1, 2) for z in self.qkv(self.n1(x)).split(C, 2))
            if llama:
                q, k = turn(q), turn(k)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
            x = x + self.out(o)
            y = self.n2(x)
            h = F.silu(self.gate(y)) * self.up(y) if llama else F.gelu(self.up(y), approximate="tanh")
            return x + self.down(h)

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(V, C)
            if not llama:
                self.positions = nn.Embedding(args.seq, C)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(layers)), norm()
            self.head = nn.Linear(C, V, bias=False)
            if not llama:
                self.head.weight = self.tokens.weight
            D = C // heads
            angle = torch.outer(torch.arange(args.seq), 10000.0 ** (-torch.arange(0, D, 2) / D))
            self.register_buffer("cos", angle.cos().repeat(1, 2).bfloat16())
            self.register_buffer("sin", angle.sin().repeat(1, 2).bfloat16())

        def turn(self, x):
            a, b = x.chunk(2, -1)
            return x * self.cos + torch.cat((-b, a), -1) * self.sin

        def forward(self, ids, targets):
            x = self.tokens(ids)
            if not llama:
                x = x + self.positions.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x, self.turn)
            return F.cross_entropy(self.head(self.norm(x)).view(-1, V), targets.view(-1))

    net = Gpt().cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(net)
    ids = torch.randint(V, (batch, args.seq), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(ids, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
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
    for steps in int(1000 / ms) + 1, int(2000 / ms) + 1:  # the second counts: by then the clock is steady
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        in_a_row = begin.elapsed_time(end) / steps
    peak = torch.cuda.max_memory_allocated() / 2**20
    count = sum(p.numel() for p in net.parameters())
    print(f"  PyTorch  {ms:8.2f} ms, {in_a_row:.2f} in a row  {batch * args.seq / ms * 1e3:9.0f} tok/s  peak {peak:7.0f} MiB  {count} parameters  "
          f"torch {torch.__version__}", flush=True)
    del net, optimizer, compiled, step, ids
    torch.cuda.empty_cache()
    return ms, in_a_row, peak


measured = {}
for case in args.cases:
    name, batch = case.rsplit(":", 1)
    bd, batch = name.endswith("-bd"), int(batch)
    name = name.removesuffix("-bd")
    print(f"{case}, T {args.seq}")
    if not args.no_basis:
        ours = run_basis(name, bd, batch)
    if args.no_torch:
        continue
    if (name, batch) not in measured:
        measured[name, batch] = run_torch(name, batch)
    if args.no_basis:
        continue
    ms, in_a_row, peak = measured[name, batch]
    print(f"  basis / PyTorch: speed {ms / ours['ms']:.3f}, in a row {in_a_row / ours['in_a_row_ms']:.3f}, peak memory {ours['peak_mib'] / peak:.3f}", flush=True)

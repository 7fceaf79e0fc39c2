#!/usr/bin/env python3
"""Conv-basis attention beside PyTorch's cuDNN attention on one GPU: batch 1, causal, bf16.

  python3 tests/bench/pytorch_conv.py [--basis build-cuda/basis] [--segments 16] [--lengths 1024 8192 65536 262144]

Each length is timed with PyTorch and then with basis on the same GPU, random data, medians; milliseconds, forward and
forward + backward; a ratio above 1 means that conv-basis is faster. The last lines give the growth of its time.
"""
import argparse
import json
import math
import statistics
import subprocess

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

parser = argparse.ArgumentParser()
parser.add_argument("--basis", default="build-cuda/basis")
parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192, 16384, 65536, 262144, 1048576])
parser.add_argument("--torch-up-to", type=int, default=262144)
parser.add_argument("--heads", type=int, default=12)
parser.add_argument("--head-dim", type=int, default=64)
parser.add_argument("--segments", type=int, default=16)
parser.add_argument("--tile", type=int, default=0)
parser.add_argument("--repeats", type=int, default=7)
args = parser.parse_args()


def median_ms(f, repeats):
    f()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        f()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def torch_ms(length):
    shape = 1, length, args.heads, args.head_dim
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
               for _ in range(3))
    cotangent = torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2)

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    repeats = args.repeats if length < 200000 else 2
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        with torch.no_grad():
            alone = median_ms(forward, repeats)
        return alone, median_ms(lambda: torch.autograd.grad(forward(), (q, k, v), cotangent), repeats)


def basis_ms(length):
    done = subprocess.run([args.basis, "bench", "conv", "--device", "cuda", "--dtype", "bf16", "--json", "--batch", "1",
                           "--lengths", str(length), "--heads", str(args.heads), "--head-dim", str(args.head_dim),
                           "--segments", str(args.segments), "--tile", str(args.tile), "--fused-up-to", "1",
                           "--repeats", str(args.repeats)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    row = json.loads(done.stdout)["rows"][0]
    return row["forward_ms"], row["forward_backward_ms"], row["peak_mib"]


print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}; "
      f"{args.heads} heads x {args.head_dim}, k = {args.segments}")
print(f"{'tokens':>8} | {'cuDNN':>20} | {'conv-basis':>20} {'MiB':>7} | ratio")
points = []
for length in args.lengths:
    theirs = torch_ms(length) if length <= args.torch_up_to else None
    torch.cuda.empty_cache()
    ours = basis_ms(length)
    points.append((length, ours))
    left = f"{theirs[0]:9.3f} {theirs[1]:10.3f}" if theirs else f"{'-':>20}"
    ratio = f"{theirs[0] / ours[0]:6.2f} {theirs[1] / ours[1]:6.2f}" if theirs else ""
    print(f"{length:>8} | {left} | {ours[0]:9.3f} {ours[1]:10.3f} {ours[2]:7.0f} | {ratio}", flush=True)

long = [(math.log(n), math.log(t[0]), math.log(t[1])) for n, t in points if n >= 16384]
if len(long) >= 2:
    for name, at in (("forward", 1), ("forward + backward", 2)):
        x, y = [p[0] for p in long], [p[at] for p in long]
        mx, my = sum(x) / len(x), sum(y) / len(y)
        slope = sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)
        print(f"{name}: time grows as tokens^{slope:.2f} from 16k on")

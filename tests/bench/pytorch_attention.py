#!/usr/bin/env python3
"""Causal attention on one GPU, bf16: basis (cuDNN and own kernels) beside PyTorch's SDPA (cuDNN and flash backends).

  python3 tests/bench/pytorch_attention.py [--basis build-cuda/basis] [--tokens 16384] [--repeats 20]

One process after another on the same GPU, random data, medians. 2048 channels whatever the head dimension; the batch
shrinks as the sequence grows, so that every row has the same number of tokens. Milliseconds and TFLOP/s count the
visible half of the products (forward 2 B H T^2 D, backward 5/2 of it); a ratio above 1 means that basis is faster than
PyTorch's cuDNN.
"""
import argparse
import json
import statistics
import subprocess

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

parser = argparse.ArgumentParser()
parser.add_argument("--basis", default="build-cuda/basis")
parser.add_argument("--tokens", type=int, default=16384)
parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
parser.add_argument("--repeats", type=int, default=20)
args = parser.parse_args()


def median_ms(f):
    for _ in range(3):
        f()
    times = []
    for _ in range(args.repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        f()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def torch_ms(backend, batch, length, heads, dim):
    q, k, v = (torch.randn(batch, length, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
               .requires_grad_() for _ in range(3))
    cotangent = torch.randn(batch, length, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both():
        torch.autograd.grad(forward(), (q, k, v), cotangent)

    with sdpa_kernel(backend):
        with torch.no_grad():
            alone = median_ms(forward)
        return alone, median_ms(both)


def basis_ms(extra, batch, length, heads, dim):
    done = subprocess.run([args.basis, "bench", "attention", "--device", "cuda", "--dtype", "bf16", "--json",
                           "--batch", str(batch), "--seq", str(length), "--heads", str(heads), "--head-dim", str(dim),
                           "--repeats", str(args.repeats), *extra], capture_output=True, text=True)
    if done.returncode:
        return None
    row = json.loads(done.stdout)["rows"][0]
    return row["forward_ms"], row["forward_backward_ms"]


print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
print(f"{'D':>4} {'T':>6} | {'torch cuDNN':>15} {'torch flash':>15} | {'basis':>15} {'ratio':>11} | {'own':>15} {'ratio':>11}")
for dim in args.head_dims:
    for length in args.lengths:
        batch, heads = max(1, args.tokens // length), 2048 // dim
        shape = batch, length, heads, dim
        cudnn = torch_ms(SDPBackend.CUDNN_ATTENTION, *shape)
        flash = torch_ms(SDPBackend.FLASH_ATTENTION, *shape)
        ours, own = basis_ms([], *shape), basis_ms(["--own-attention"], *shape)
        show = lambda t: f"{t[0]:7.3f} {t[1]:7.3f}" if t else f"{'-':>15}"
        ratio = lambda t: f"{cudnn[0] / t[0]:5.2f} {cudnn[1] / t[1]:5.2f}" if t else f"{'-':>11}"
        print(f"{dim:>4} {length:>6} | {show(cudnn)} {show(flash)} | {show(ours)} {ratio(ours)} | {show(own)} {ratio(own)}",
              flush=True)

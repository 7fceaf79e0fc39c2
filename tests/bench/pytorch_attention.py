#!/usr/bin/env python3
"""Causal attention on a GPU: Basis (cuDNN where built in, and its own kernels) and PyTorch's scaled_dot_product_attention
through cuDNN and through its flash kernel, taking turns, on q, k, v of shape [B,T,H,D]. Prints one table.

  python3 tests/bench/pytorch_attention.py [--basis build-cuda/basis] [--dtype bf16] [--head-dims 64 128]
      [--lengths 1024 4096 16384] [--width 2048] [--tokens 16384] [--repeats 30] [--turns 2]

Heads = width / D and batch = tokens / T, so that every row has as many elements. Both sides time single calls the same
way: clock, call, wait for the device, clock; the median of `repeats` calls after three, the best of the turns. Milliseconds.
cuDNN's and flash's backward add up with atomics, as Basis does with cuDNN; Basis's own kernels are reproducible.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--basis", default="build-cuda/basis")
a.add_argument("--dtype", default="bf16", choices=["bf16", "f16"])
a.add_argument("--head-dims", type=int, nargs="+", default=[64, 128])
a.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
a.add_argument("--width", type=int, default=2048)
a.add_argument("--tokens", type=int, default=16384)
a.add_argument("--repeats", type=int, default=30)
a.add_argument("--turns", type=int, default=2)
a = a.parse_args()


def median_ms(f):
    for _ in range(3):
        f()
    times = []
    for _ in range(a.repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        f()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def pytorch(backend, batch, length, heads, dim):
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[a.dtype]
    q, k, v, cotangent = (torch.randn(batch, length, heads, dim, device="cuda", dtype=dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def attend():
        qt, kt, vt = (x.transpose(1, 2) for x in leaves)
        return F.scaled_dot_product_attention(qt, kt, vt, is_causal=True).transpose(1, 2)

    def both():
        attend().backward(cotangent)
        for x in leaves:
            x.grad = None

    with sdpa_kernel(backend):
        with torch.no_grad():
            forward = median_ms(attend)
        return forward, median_ms(both)


def basis(flags, batch, length, heads, dim):
    command = [a.basis, "bench", "attention", "--device", "cuda", "--dtype", a.dtype, "--json", *flags]
    for name, value in dict(batch=batch, seq=length, heads=heads, head_dim=dim, repeats=a.repeats).items():
        command += ["--" + name.replace("_", "-"), str(value)]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"]
    row = next(r for r in rows if r["name"] == "fused")
    return row["forward_ms"], row["forward_backward_ms"]


contenders = {
    "torch cuDNN": lambda *shape: pytorch(SDPBackend.CUDNN_ATTENTION, *shape),
    "torch flash": lambda *shape: pytorch(SDPBackend.FLASH_ATTENTION, *shape),
    "Basis": lambda *shape: basis([], *shape),
    "Basis own": lambda *shape: basis(["--own-attention"], *shape),
}
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {a.dtype}")
print("forward / forward+backward in ms; own TFLOP/s counts 2 and 5 products of half a square; ratio = torch cuDNN's time / ours")
print("| B, T, H, D | " + " | ".join(contenders) + " | own TFLOP/s | ratio | own's ratio |")
print("|---" * (len(contenders) + 4) + "|")
for dim in a.head_dims:
    for length in a.lengths:
        shape = (max(1, a.tokens // length), length, a.width // dim, dim)
        best = {}
        for _ in range(a.turns):
            for name, run in contenders.items():
                try:
                    times = run(*shape)
                except (RuntimeError, subprocess.CalledProcessError) as error:
                    print(f"{name} {shape}: {str(error).splitlines()[0]}")
                    continue
                best[name] = [min(pair) for pair in zip(times, best.get(name, times))]
        cells = ["%.3f / %.3f" % tuple(best[n]) if n in best else "none" for n in contenders]
        product = shape[0] * shape[2] * length * length * dim * 1e-9  # of half a square, GFLOP
        if "Basis own" in best:
            cells.append("%.0f / %.0f" % tuple(n * product / t for n, t in zip((2, 7), best["Basis own"])))
        for name in ("Basis", "Basis own"):
            if name in best and "torch cuDNN" in best:
                cells.append("%.2f / %.2f" % tuple(t / o for t, o in zip(best["torch cuDNN"], best[name])))
            else:
                cells.append("none")
        print("| %d, %d, %d, %d | " % shape + " | ".join(cells) + " |", flush=True)

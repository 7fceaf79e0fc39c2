// The BD projection's own kernels for Hopper GPUs (compute capability 9.0), bf16 and f16; host interface. Built with
// CUDA only. A caller asks `..._hopper_fits` first and has another path: other GPUs, dtypes, head sizes, alignments.
#pragma once

#include "core/tensor.h"

namespace basis::ops::bd {

using core::Tensor;

bool is_hopper(core::Device device);
int multiprocessors_of(core::Device device);
inline bool is_aligned(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0; }

// y [m, n] = repeat_heads(x[:, S]) + x[:, R] c^T for x [m, d], c [n, d - dh], all dense and of one dtype; S the first
// dh channels, or the last. Accumulates in f32, adds the slice there and rounds once. Fits: bf16 or f16, dh 32, 64 or
// 128, d a multiple of 8, n of 32.
bool forward_hopper_fits(const Tensor& x, const Tensor& c, int64_t dh);
void forward_hopper(const Tensor& x, const Tensor& c, const Tensor& y, int64_t dh, bool slice_in_front);

// dx [m, d] for dy [m, n]: dx[:, R] = dy c, dx[:, S] = sum over heads of dy, in one pass over dy; sums in f32.
// Fits: bf16 or f16, dh 64 or 128, d a multiple of 8, n of 64, d - dh <= 384 (and > 256 where dh = 128).
bool backward_hopper_fits(const Tensor& dy, const Tensor& c, int64_t dh);
void backward_hopper(const Tensor& dy, const Tensor& c, const Tensor& dx, int64_t dh, bool slice_in_front);

}  // namespace basis::ops::bd

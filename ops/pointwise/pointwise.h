// Elementwise operations.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

// a [...] and b: the same shape, or b's shape a suffix of a's (b is repeated over the leading axes).
Var add(const Var& a, const Var& b);
Var mul(const Var& a, const Var& b);
Var scale(const Var& x, double factor);

Var gelu_tanh(const Var& x);
Var gelu_erf(const Var& x);
Var silu(const Var& x);
Var tanh(const Var& x);
Var swiglu(const Var& gate, const Var& up);  // silu(gate) * up; same shape

enum class Unary { gelu_tanh, gelu_erf, silu, tanh };

// y = f(x);  dx = f'(x) dy
inline constinit KernelTable<void(Unary, const Tensor& x, const Tensor& y)> unary_forward{"pointwise"};
inline constinit KernelTable<void(Unary, const Tensor& x, const Tensor& dy, const Tensor& dx)> unary_backward{
    "pointwise backward"};
// y = alpha a + b, or a * b; b repeats every b.numel() elements.
inline constinit KernelTable<void(double alpha, const Tensor& a, const Tensor& b, const Tensor& y)> add_forward{"add"};
inline constinit KernelTable<void(const Tensor& a, const Tensor& b, const Tensor& y)> mul_forward{"mul"};
// y = factor x
inline constinit KernelTable<void(double factor, const Tensor& x, const Tensor& y)> scale_forward{"scale"};
inline constinit KernelTable<void(const Tensor& gate, const Tensor& up, const Tensor& y)> swiglu_forward{"swiglu"};
inline constinit KernelTable<void(const Tensor& gate, const Tensor& up, const Tensor& dy, const Tensor& dgate,
                                  const Tensor& dup)>
    swiglu_backward{"swiglu backward"};

}  // namespace basis::ops

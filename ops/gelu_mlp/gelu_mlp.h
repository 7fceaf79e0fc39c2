// GPT-2's MLP as one op, so that on a GPU GELU's slope and the first bias's gradient take one pass over the hidden
// channels; or none: the matrix products can do both, and GELU, on their way out.
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

struct GeluMlpOptions {
  bool epilogue = false;  // within the matrix products, where the device can
};

// x [..., C], up [F, C], up_bias [F], down [C', F], down_bias [C'] -> [..., C']; the biases are given together or not
// at all. GELU is the tanh form.
Var gelu_mlp(const Var& x, const Var& up, const Var& up_bias, const Var& down, const Var& down_bias,
             const GeluMlpOptions& options = {});

// x [N, C]: hidden = gelu(x up^T + bias) [N, F], and pre [N, F] for the device's own backward kernel: x up^T with or
// without the bias.
inline constinit KernelTable<void(const GeluMlpOptions&, const Tensor& x, const Tensor& up, const Tensor& bias,
                                  const Tensor& pre, const Tensor& hidden)>
    gelu_mlp_up{"gelu_mlp"};
// dpre [N, F] = (dy down) gelu'(x up^T + bias); dbias [F] = its column sums, or undefined: f32 (f64 for f64), and of
// the inputs' dtype with the epilogue.
inline constinit KernelTable<void(const GeluMlpOptions&, const Tensor& dy, const Tensor& down, const Tensor& pre,
                                  const Tensor& bias, const Tensor& dpre, const Tensor& dbias)>
    gelu_mlp_down_backward{"gelu_mlp backward"};

}  // namespace basis::ops

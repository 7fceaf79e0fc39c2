// The layers transformers are made of. Shapes: B batch, T time, C channels. Weights follow PyTorch's layout [out, in].
#pragma once

#include <memory>
#include <string>

#include "models/channel_order.h"
#include "models/module.h"
#include "models/pass.h"
#include "ops/common/normed.h"

namespace basis::models {

// A parameter as an operand: in the dtype of the pass, from pass.copies or cast. Undefined stays undefined.
Var operand(const Pass& pass, const Var& parameter);

// Inverted dropout while training; the identity otherwise.
Var dropout(const Pass& pass, const Var& x, double p);

// A weight of rank r instead of a full one: W = weight inner, or in Basis Decomposition W = weight [I, inner], which
// reads x's first r channels as they are and has r^2 numbers fewer. Rank 0: full.
struct LowRank {
  int64_t rank = 0;
  bool bd = false;
};

// y = x W^T + b                                                        // [..., in] -> [..., out]
// Throws core::Error (usage) for a rank that makes nothing smaller.
class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, bool bias, double init_std, LowRank low = {}, Init bias_init = Init::zeros());
  Var operator()(const Pass& pass, const Var& x) const;
  bool full() const { return !low_.rank; }

  Var weight;  // [out, in], or [out, r]
  Var bias;    // [out], or undefined
  Var inner;   // undefined, [r, in], or [r, in - r] in Basis Decomposition
 private:
  LowRank low_;
};

// LayerNorm (Ba et al., arXiv 1607.06450) or RMSNorm (Zhang & Sennrich, arXiv 1910.07467).
enum class NormType { layer_norm, rms_norm };

class Norm : public Module {
 public:
  Norm(NormType type, int64_t channels, bool bias, double eps);
  // norm(x), its channels written in `order` [C] where that is defined: reordering then costs no pass of its own.
  Var operator()(const Pass& pass, const Var& x, const Tensor& order = {}) const;
  // sum = branch + residual, y = norm(sum)
  ops::Normed add(const Pass& pass, const Var& branch, const Var& residual, const Tensor& order = {}) const;

 private:
  NormType type_;
  double eps_;
  Var weight_;  // [C]
  Var bias_;    // [C], or undefined
};

enum class Activation { gelu_tanh, gelu_erf, silu, swiglu };

// down(act(up x)), or down(silu(gate x) * up x) for swiglu (Shazeer, arXiv 2002.05202).
class Mlp : public Module {
 public:
  struct Options {
    int64_t channels, hidden;
    Activation activation;
    bool bias;
    bool epilogue;  // GELU (tanh form) within the matrix products instead of passes of its own
    double init_std, out_init_std;
    LowRank up_rank = {}, down_rank = {};
  };
  explicit Mlp(const Options& options);
  // [B,T,C] -> [B,T,C]; x's channels as they are, or already in wanted_order(), given as `order`
  Var operator()(const Pass& pass, const Var& x, const Tensor& order = {}) const;
  Tensor wanted_order() const { return order_.indices(); }

 private:
  Activation activation_;
  bool fused_, epilogue_;
  std::unique_ptr<Linear> gate_;  // swiglu only
  Linear up_, down_;
  ChannelOrder order_;  // [C], where up reads its first channels as they are
};

}  // namespace basis::models

// Each fused op beside the composite of plain ops that it must equal, for the generated checks.
#include "autograd/registry.h"
#include "ops/common/attention.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/naive_attention/naive_attention.h"
#include "ops/pointwise/pointwise.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/view/view.h"

namespace basis::ops {
namespace {

using Vars = std::vector<Var>;
constexpr double kEps = 1e-5;  // the norms' samples use the default

[[maybe_unused]] const bool registered =
    autograd::set_reference(
        "fused_attention",
        [](const void* attrs, const Vars& in) {
          return Vars{naive_attention(in[0], in[1], in[2], *static_cast<const AttentionOptions*>(attrs))};
        }) &&
    autograd::set_reference(
        "conv_basis_attention",
        [](const void* attrs, const Vars& in) {
          return Vars{conv_basis_naive(in[0], in[1], in[2], *static_cast<const ConvBasisOptions*>(attrs))};
        }) &&
    autograd::set_reference("swiglu", [](const void*, const Vars& in) { return Vars{mul(silu(in[0]), in[1])}; }) &&
    autograd::set_reference("gelu_mlp",
                            [](const void*, const Vars& in) {
                              return Vars{linear(gelu_tanh(linear(in[0], in[1], in[2])), in[3], in[4])};
                            }) &&
    autograd::set_reference("linear_cross_entropy",
                            [](const void* attrs, const Vars& in) {
                              const auto& [targets, o] = *static_cast<const LinearCrossEntropyAttrs*>(attrs);
                              Var logits = view(linear(in[0], in[1], in[2]), {targets.numel(), in[1].size(0)});
                              return Vars{cross_entropy(logits, targets, {o.ignore_index, o.scale})};
                            }) &&
    autograd::set_reference("add_layer_norm",
                            [](const void*, const Vars& in) {
                              Var sum = add(in[0], in[1]);
                              return Vars{layer_norm(sum, in[2], in[3], kEps), sum};
                            }) &&
    autograd::set_reference("add_rms_norm", [](const void*, const Vars& in) {
      Var sum = add(in[0], in[1]);
      return Vars{rms_norm(sum, in[2], kEps), sum};
    });

}  // namespace
}  // namespace basis::ops

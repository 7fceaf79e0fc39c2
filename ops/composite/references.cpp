// Each fused op beside the composite of plain ops that it must equal, for the generated checks.
#include "autograd/registry.h"
#include "ops/common/attention.h"
#include "ops/conv_basis/conv_basis.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/linear/linear.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/naive_attention/naive_attention.h"
#include "ops/permute_channels/permute_channels.h"
#include "ops/pointwise/pointwise.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/view/view.h"

namespace basis::ops {
namespace {

using Vars = std::vector<Var>;

// A normalisation's result in the order of channels that its attributes name.
Var in_order(const Var& y, const NormAttrs& a) { return a.order ? permute_channels(y, a.order) : y; }

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
    autograd::set_reference("layer_norm",
                            [](const void* attrs, const Vars& in) {
                              const auto& a = *static_cast<const NormAttrs*>(attrs);
                              return Vars{in_order(layer_norm(in[0], in[1], in[2], a.eps), a)};
                            }) &&
    autograd::set_reference("add_layer_norm",
                            [](const void* attrs, const Vars& in) {
                              const auto& a = *static_cast<const NormAttrs*>(attrs);
                              Var sum = add(in[0], in[1]);
                              return Vars{in_order(layer_norm(sum, in[2], in[3], a.eps), a), sum};
                            }) &&
    autograd::set_reference("rms_norm",
                            [](const void* attrs, const Vars& in) {
                              const auto& a = *static_cast<const NormAttrs*>(attrs);
                              return Vars{in_order(rms_norm(in[0], in[1], a.eps), a)};
                            }) &&
    autograd::set_reference("add_rms_norm", [](const void* attrs, const Vars& in) {
      const auto& a = *static_cast<const NormAttrs*>(attrs);
      Var sum = add(in[0], in[1]);
      return Vars{in_order(rms_norm(sum, in[2], a.eps), a), sum};
    });

}  // namespace
}  // namespace basis::ops

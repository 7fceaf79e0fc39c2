// Two maps of positions, each the other's transpose and inverse.
#include "ops/shifted_groups/shifted_groups.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {
namespace {

Tensor split(const Tensor& x, int64_t g, std::string_view op) {
  require_float(x, op);
  require(x.dim() == 4 && x.size(2) % 2 == 0 && g >= 2 && g % 2 == 0, op,
          "[B,T,H,D] with H even, groups of an even width", describe(x) + ", width " + std::to_string(g));
  Tensor y =
      Tensor::empty({2 * x.size(0) * groups_of(x.size(1), g), g, x.size(2) / 2, x.size(3)}, x.dtype(), x.device());
  if (x.numel())
    split_groups_kernel(x.device().type, x.dtype(), x, y);
  else
    core::fill(y, 0);
  return y;
}

Tensor join(const Tensor& y, int64_t B, int64_t T, std::string_view op) {
  require_float(y, op);
  require(y.dim() == 4 && y.size(1) >= 2 && y.size(1) % 2 == 0 && y.size(0) == 2 * B * groups_of(T, y.size(1)), op,
          "[2 B N, g, H/2, D] for B = " + std::to_string(B) + ", T = " + std::to_string(T), describe(y));
  Tensor x = Tensor::empty({B, T, 2 * y.size(2), y.size(3)}, y.dtype(), y.device());
  if (x.numel()) join_groups_kernel(y.device().type, y.dtype(), y, x);
  return x;
}

}  // namespace

struct SplitGroups {
  static constexpr std::string_view name = "split_groups";
  struct Attrs {
    int64_t g, B = 0, T = 0;  // B and T for backward
  };
  static Tensor forward(Context&, const Attrs& a, const Tensor& x) { return split(x, a.g, name); }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) { return {join(dy, a.B, a.T, name)}; }
  static std::vector<Sample<SplitGroups>> samples() {
    return {{.name = "whole groups", .attrs = {4, 2, 8}, .inputs = {{{2, 8, 2, 3}}}},
            {.name = "a rest", .attrs = {6, 1, 11}, .inputs = {{{1, 11, 4, 2}}}},
            {.name = "less than half a group", .attrs = {8, 2, 3}, .inputs = {{{2, 3, 2, 1}}}},
            {.name = "empty", .attrs = {4, 1, 0}, .inputs = {{{1, 0, 2, 3}}}}};
  }
  static std::vector<ErrorSample<SplitGroups>> error_samples() {
    return {{"odd width", {3, 1, 4}, {{{1, 4, 2, 1}}}}, {"odd heads", {2, 1, 4}, {{{1, 4, 3, 1}}}}};
  }
};
REGISTER_OP(SplitGroups)

struct JoinGroups {
  static constexpr std::string_view name = "join_groups";
  struct Attrs {
    int64_t B, T, g;
  };
  static Tensor forward(Context&, const Attrs& a, const Tensor& y) { return join(y, a.B, a.T, name); }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dx) { return {split(dx, a.g, name)}; }
  static std::vector<Sample<JoinGroups>> samples() {
    return {{.name = "whole groups", .attrs = {2, 8, 4}, .inputs = {{{12, 4, 1, 3}}}},
            {.name = "a rest", .attrs = {1, 11, 6}, .inputs = {{{6, 6, 2, 2}}}},
            {.name = "empty", .attrs = {1, 0, 4}, .inputs = {{{2, 4, 1, 3}}}}};
  }
  static std::vector<ErrorSample<JoinGroups>> error_samples() {
    return {{"groups of another length", {1, 9, 4}, {{{4, 4, 1, 1}}}}};
  }
};
REGISTER_OP(JoinGroups)

Var split_groups(const Var& x, int64_t g) {
  return autograd::apply<SplitGroups>({g, x.dim() == 4 ? x.size(0) : 0, x.dim() == 4 ? x.size(1) : 0}, x);
}
Var join_groups(const Var& y, int64_t B, int64_t T) {
  return autograd::apply<JoinGroups>({B, T, y.dim() == 4 ? y.size(1) : 0}, y);
}

Tensor group_lengths(const Tensor& lengths, int64_t B, int64_t T, int64_t g, Device device) {
  Tensor out = Tensor::empty({2 * B * groups_of(T, g)}, DType::i32, device);
  group_lengths_kernel(device.type, DType::i32, lengths, T, g, out);
  return out;
}

}  // namespace basis::ops

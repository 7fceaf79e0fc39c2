// y_j = x_order[j]        dx_order[j] = dy_j
#include "ops/permute_channels/permute_channels.h"

#include "autograd/registry.h"

namespace basis::ops {

struct PermuteChannels {
  static constexpr std::string_view name = "permute_channels";
  struct Attrs {
    Tensor order;
    Attrs to(Device device) const { return {order.to(device)}; }
  };

  static Tensor forward(Context&, const Attrs& a, const Tensor& x) {
    require_float(x, name);
    require(x.dim() >= 1 && a.order.defined() && a.order.dtype() == DType::i32 && a.order.dim() == 1 &&
                a.order.size(0) == x.size(-1) && a.order.device() == x.device(),
            name, "x [..., C] and order [C] i32 on its device", describe(x) + " and " + describe(a.order));
    return permuted(x, a, false);
  }
  static Tensors backward(const Context&, const Attrs& a, const Tensor& dy) { return {permuted(dy, a, true)}; }

  static std::vector<Sample<PermuteChannels>> samples() {
    auto order = [](std::vector<int32_t> v) { return Attrs{Tensor::from(v, {int64_t(v.size())})}; };
    return {{.name = "three axes", .attrs = order({3, 0, 4, 1, 2}), .inputs = {{{2, 3, 5}}}},
            {.name = "identity", .attrs = order({0, 1, 2}), .inputs = {{{4, 3}}}},
            {.name = "vector", .attrs = order({1, 0}), .inputs = {{{2}}}},
            {.name = "one", .attrs = order({0}), .inputs = {{{3, 1}}}},
            {.name = "empty", .attrs = order({1, 0}), .inputs = {{{0, 2}}}}};
  }
  static std::vector<ErrorSample<PermuteChannels>> error_samples() {
    Tensor two = Tensor::from(std::vector<int32_t>{1, 0}, {2});
    return {{"another width", {two}, {{{2, 3}}}}, {"no order", {}, {{{2, 2}}}}};
  }

 private:
  static Tensor permuted(const Tensor& x, const Attrs& a, bool inverse) {
    Tensor y = x.empty_like();
    int64_t c = x.size(-1);
    if (x.numel())
      permute_channels_kernel(x.device().type, x.dtype(), x.view({x.numel() / c, c}), a.order.contiguous(), inverse,
                              y.view({x.numel() / c, c}));
    return y;
  }
};
REGISTER_OP(PermuteChannels)

Var permute_channels(const Var& x, const Tensor& order) { return autograd::apply<PermuteChannels>({order}, x); }

}  // namespace basis::ops

#include "ops/conv_basis/recover.h"

#include <fmt/format.h>

#include <cmath>

namespace basis::ops {

Recovered recover_breakpoints(const Tensor& q, const Tensor& k, const RecoverOptions& options) {
  constexpr std::string_view name = "recover_breakpoints";
  require_float(q, name);
  bool ok = k.defined() && q.dim() == 4 && k.dim() == 4 && q.dtype() == k.dtype() && q.device() == k.device() &&
            q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3) && k.size(2) > 0 &&
            q.size(2) % k.size(2) == 0;
  require(ok, name, "q [B,T,H,D] and k [B,T,Hkv,D] with H a multiple of Hkv", describe(q) + ", " + describe(k));
  require(options.k >= 1 && options.window >= 1 && options.delta > 0, name, "k, window >= 1 and delta > 0",
          fmt::format("{}, {}, {}", options.k, options.window, options.delta));
  require(options.epsilon >= 0 && options.epsilon <= options.delta / double(5 * options.window), name,
          "epsilon in [0, delta / (5 window)]", std::to_string(options.epsilon));
  RecoverOptions here = options;
  if (here.scale == 0) here.scale = 1 / std::sqrt(double(std::max<int64_t>(1, q.size(3))));
  Recovered r{Tensor::empty({q.size(0), q.size(2), options.k}, DType::i32, q.device()),
              Tensor::empty({q.size(0), q.size(2)}, DType::i32, q.device())};
  if (r.degenerate.numel())
    recover_kernel(q.device().type, q.dtype(), q.contiguous(), k.contiguous(), here, r.breakpoints, r.degenerate);
  return r;
}

}  // namespace basis::ops

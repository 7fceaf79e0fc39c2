#include "ops/conv_basis/place.h"

#include <fmt/format.h>

namespace basis::ops {

Tensor place_breakpoints(const Tensor& q, const Tensor& score, const PlaceOptions& o) {
  constexpr std::string_view name = "place_breakpoints";
  require_float(q, name);
  require(q.dim() == 4, name, "q [B,T,H,D]", describe(q));
  if (score)
    require(score.dim() == 3 && score.dtype() == q.dtype() && score.device() == q.device() &&
                score.size(0) == q.size(0) && score.size(1) == q.size(1) && score.size(2) > 0 &&
                q.size(2) % score.size(2) == 0,
            name, "score [B,T,Hkv] like q [B,T,H,D], H a multiple of Hkv", describe(score) + ", " + describe(q));
  require(o.k >= 1 && o.segment >= 1 && o.burst >= 0, name, "k, segment >= 1 and burst >= 0",
          fmt::format("{}, {}, {}", o.k, o.segment, o.burst));
  Tensor out = Tensor::empty({q.size(0), q.size(2), o.k}, DType::i32, q.device());
  if (out.numel()) place_kernel(q.device().type, q.dtype(), q.size(1), score ? score.contiguous() : score, o, out);
  return out;
}

}  // namespace basis::ops

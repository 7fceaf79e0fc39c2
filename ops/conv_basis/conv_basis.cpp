#include "ops/conv_basis/conv_basis.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "autograd/registry.h"
#include "core/basic/basic.h"
#include "ops/conv_basis/head_cpu.h"
#include "ops/conv_basis/paper_gradient.h"

namespace basis::ops {

int64_t uniform_segment(const ConvBasisOptions& o, int64_t T) {
  return o.segment > 0 ? o.segment : std::max<int64_t>(1, (T + o.k - 1) / o.k);
}

// The transforms cost T log L, the products T (T/L): both are near their sum's minimum at 32 tiles. Tiles much longer
// than a segment would be transformed once for each of their segments.
int64_t choose_tile(const ConvBasisOptions& o, int64_t T, int64_t segments) {
  if (o.tile > 0) return o.tile;
  int64_t spacing = std::max<int64_t>(1, T / std::max<int64_t>(1, segments));
  int64_t tile = std::min<int64_t>(int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(1, T / 32)))), 2048);
  return std::max<int64_t>(8, std::min(tile, int64_t(std::bit_floor(uint64_t(spacing)))));
}

std::vector<int64_t> breakpoints_of(const ConvBasisOptions& o, int64_t T, int64_t H, int64_t b, int64_t h) {
  std::vector<int64_t> starts;
  if (o.breakpoints) {
    int64_t count = o.breakpoints.size(2);
    const int32_t* row = o.breakpoints.data<int32_t>() + (b * H + h) * count;
    for (int64_t r = 0; r < count && row[r] < T; ++r) starts.push_back(row[r]);
  } else {
    for (int64_t s = 0; s < T; s += uniform_segment(o, T)) starts.push_back(s);
  }
  return starts;
}

namespace {

void check_breakpoints(const ConvBasisOptions& o, int64_t B, int64_t H, const Tensor& q, std::string_view op) {
  const Tensor& s = o.breakpoints;
  require(s.dim() == 3 && s.size(0) == B && s.size(1) == H && s.size(2) >= 1 && s.dtype() == DType::i32 &&
              s.device() == q.device() && s.is_contiguous(),
          op, "breakpoints i32 [B,H,K] on q's device", describe(s));
  if (!s.device().is_cpu()) return;
  int64_t count = s.size(2);
  for (int64_t i = 0; i < B * H * count; ++i) {
    int32_t now = s.data<int32_t>()[i];
    bool ok = i % count == 0 ? now == 0 : now > s.data<int32_t>()[i - 1];
    require(ok, op, "breakpoints that ascend from 0", std::to_string(now) + " at place " + std::to_string(i % count));
  }
}

}  // namespace

ConvBasisShape check_conv_basis(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& o,
                                std::string_view op) {
  require_float(q, op);
  bool ok = k.defined() && v.defined() && q.dim() == 4 && k.dim() == 4 && v.dim() == 4 && q.dtype() == k.dtype() &&
            q.dtype() == v.dtype() && q.device() == k.device() && q.device() == v.device() && q.size(0) == k.size(0) &&
            q.size(0) == v.size(0) && k.size(1) == v.size(1) && k.size(2) == v.size(2) && q.size(3) == k.size(3) &&
            k.size(2) > 0 && q.size(2) % k.size(2) == 0 && k.size(1) == q.size(1);
  require(ok, op, "q [B,T,H,D], k [B,T,Hkv,D], v [B,T,Hkv,Dv] with H a multiple of Hkv",
          describe(q) + ", " + describe(k) + ", " + describe(v));
  int64_t B = q.size(0), T = q.size(1), H = q.size(2);
  require(o.k >= 1, op, "k of at least 1", std::to_string(o.k));
  require(o.segment >= 0 && o.window >= 0, op, "segment, window >= 0",
          std::to_string(o.segment) + ", " + std::to_string(o.window));
  require(o.tile >= 0 && (o.tile == 0 || std::has_single_bit(uint64_t(o.tile))), op, "a tile of a power of two",
          std::to_string(o.tile));
  require(o.rows >= 0 && o.rows <= T, op, "rows in [0, T]", std::to_string(o.rows));
  if (o.breakpoints) check_breakpoints(o, B, H, q, op);
  if (o.key_lengths)
    require(o.key_lengths.shape() == Shape{B} && o.key_lengths.dtype() == DType::i32 &&
                o.key_lengths.device() == q.device() && o.key_lengths.is_contiguous(),
            op, "key_lengths i32 [B]", describe(o.key_lengths));
  double scale = o.scale != 0 ? o.scale : 1 / std::sqrt(double(std::max<int64_t>(1, q.size(3))));
  int64_t spacing = uniform_segment(o, T),
          segments = o.breakpoints ? o.breakpoints.size(2) : (T + spacing - 1) / spacing;
  return {B, T, H, k.size(2), q.size(3), v.size(3), o.rows ? o.rows : T, std::max<int64_t>(1, segments), scale};
}

namespace {

Tensor breakpoint_tensor(std::vector<int32_t> v, int64_t B, int64_t H) {
  return Tensor::from(v, {B, H, int64_t(v.size()) / B / H});
}

template <class Op>
std::vector<Sample<Op>> conv_basis_samples() {
  using O = ConvBasisOptions;
  auto full = [](O o) { return o.causal = false, o; };
  O padded{.k = 2, .causal = false};
  padded.key_lengths = Tensor::from(std::vector<int32_t>{3, 6}, {2});
  O found;
  found.breakpoints = breakpoint_tensor({0, 1, 5, 12, 0, 2, 3, 99}, 1, 2);
  std::vector<InputSpec> small{{{1, 13, 2, 3}}, {{1, 13, 2, 3}}, {{1, 13, 2, 3}}};
  std::vector<InputSpec> grouped{{{2, 11, 4, 2}}, {{2, 11, 2, 2}}, {{2, 11, 2, 5}}};
  std::vector<InputSpec> steep{{{1, 40, 1, 4}, -9, 9}, {{1, 40, 1, 4}, -3, 3}, {{1, 40, 1, 4}}};
  std::vector<InputSpec> tiles{{{1, 70, 2, 4}}, {{1, 70, 2, 4}}, {{1, 70, 2, 4}}};
  // Factors: FFTs are accurate beside their tile's largest row, not beside each row: see kLargestRatio.
  return {
      {.name = "one segment", .attrs = {.k = 1}, .inputs = small, .factor = 32, .reduction_length = 16},
      {.name = "causal", .attrs = {.k = 3, .tile = 4}, .inputs = small, .factor = 32, .reduction_length = 16},
      {.name = "full", .attrs = full({.k = 3, .tile = 4}), .inputs = small, .factor = 32, .reduction_length = 16},
      {.name = "every column", .attrs = {.k = 13}, .inputs = small, .factor = 32, .reduction_length = 16},
      {.name = "aligned", .attrs = {.segment = 4, .tile = 2}, .inputs = small, .factor = 32, .reduction_length = 16},
      {.name = "grouped, wide v",
       .attrs = {.k = 2, .tile = 4},
       .inputs = grouped,
       .factor = 32,
       .reduction_length = 16},
      {.name = "grouped, full", .attrs = full({.k = 2}), .inputs = grouped, .factor = 32, .reduction_length = 16},
      {.name = "window",
       .attrs = {.k = 2, .window = 3, .tile = 4},
       .inputs = small,
       .factor = 32,
       .reduction_length = 16},
      {.name = "full window",
       .attrs = full({.k = 3, .window = 2, .tile = 4}),
       .inputs = small,
       .factor = 32,
       .reduction_length = 16},
      {.name = "found breakpoints", .attrs = found, .inputs = small, .factor = 32, .reduction_length = 16},
      {.name = "padded", .attrs = padded, .inputs = {{{2, 6, 2, 3}}, {{2, 6, 2, 3}}, {{2, 6, 2, 3}}}, .factor = 32},
      {.name = "steep", .attrs = {.k = 4, .tile = 16}, .inputs = steep, .factor = 256, .reduction_length = 40},
      {.name = "steep, full",
       .attrs = full({.k = 4, .tile = 16}),
       .inputs = steep,
       .factor = 256,
       .reduction_length = 40},
      {.name = "several tiles", .attrs = {.k = 5, .tile = 8}, .inputs = tiles, .factor = 64, .reduction_length = 70},
      {.name = "one", .attrs = {}, .inputs = {{{1, 1, 1, 1}}, {{1, 1, 1, 1}}, {{1, 1, 1, 1}}}, .factor = 4},
      {.name = "empty", .attrs = {}, .inputs = {{{2, 0, 2, 4}}, {{2, 0, 2, 4}}, {{2, 0, 2, 4}}}},
  };
}

template <class Op>
std::vector<ErrorSample<Op>> conv_basis_error_samples() {
  std::vector<InputSpec> fine{{{1, 4, 1, 2}}, {{1, 4, 1, 2}}, {{1, 4, 1, 2}}};
  ConvBasisOptions lengths;
  lengths.key_lengths = Tensor::from(std::vector<int32_t>{1, 2}, {2});
  auto at = [](std::vector<int32_t> v) {
    ConvBasisOptions o;
    return o.breakpoints = breakpoint_tensor(std::move(v), 1, 1), o;
  };
  return {{"heads not a multiple", {}, {{{1, 2, 3, 4}}, {{1, 2, 2, 4}}, {{1, 2, 2, 4}}}},
          {"more keys", {}, {{{1, 2, 1, 4}}, {{1, 3, 1, 4}}, {{1, 3, 1, 4}}}},
          {"D differs", {}, {{{1, 2, 1, 4}}, {{1, 2, 1, 3}}, {{1, 2, 1, 4}}}},
          {"k = 0", {.k = 0}, fine},
          {"tile of 3", {.tile = 3}, fine},
          {"negative window", {.window = -1}, fine},
          {"two lengths for one row", lengths, fine},
          {"breakpoints that do not ascend", at({0, 2, 2}), fine, true},
          {"breakpoints that begin late", at({1, 2}), fine, true}};
}

}  // namespace

struct ConvBasisAttention {
  static constexpr std::string_view name = "conv_basis_attention";
  using Attrs = ConvBasisOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& q, const Tensor& k, const Tensor& v) {
    ConvBasisShape n = check_conv_basis(q, k, v, a, name);
    require(a.rows == 0 || !ctx.recording(), name, "no gradient when only the last rows are evaluated",
            "rows = " + std::to_string(a.rows));
    Tensor o = Tensor::empty({n.B, n.rows, n.H, n.Dv}, q.dtype(), q.device());
    Tensor lse = Tensor::empty({n.B, n.H, n.T}, q.dtype() == DType::f64 ? DType::f64 : DType::f32, q.device());
    Tensor direct = Tensor::empty({n.B, n.H, n.T}, DType::u8, q.device());
    if (o.numel()) conv_basis_forward(q.device().type, q.dtype(), q, k, v, a, o, lse, direct);
    ctx.save({q, k, v, o, lse, direct});
    return o;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dout) {
    const Tensor &q = ctx.saved(0), &k = ctx.saved(1), &v = ctx.saved(2);
    if (a.paper_gradient && dout.numel())
      return conv_basis_paper_gradient(q, k, v, ctx.saved(3), ctx.saved(4), ctx.saved(5), dout, a);
    Tensor dq = q.empty_like(), dk = k.empty_like(), dv = v.empty_like();
    if (dout.numel()) {
      conv_basis_backward(q.device().type, q.dtype(), q, k, v, ctx.saved(3), ctx.saved(4), ctx.saved(5), dout, a, dq,
                          dk, dv);
    } else {
      for (const Tensor& t : {dq, dk, dv}) core::fill(t, 0);
    }
    return {dq, dk, dv};
  }

  static std::vector<Sample<ConvBasisAttention>> samples() { return conv_basis_samples<ConvBasisAttention>(); }
  static std::vector<ErrorSample<ConvBasisAttention>> error_samples() {
    return conv_basis_error_samples<ConvBasisAttention>();
  }
};
REGISTER_OP(ConvBasisAttention)

Var conv_basis_attention(const Var& q, const Var& k, const Var& v, const ConvBasisOptions& options) {
  return autograd::apply<ConvBasisAttention>(options, q, k, v);
}

double conv_basis_direct_share(const Tensor& q, const Tensor& k, const Tensor& v, const ConvBasisOptions& options) {
  Context ctx;
  ctx.set_needs(0, true);
  ConvBasisAttention::forward(ctx, options, q, k, v);
  auto flags = ctx.saved(5).to_vector<double>();
  auto count = std::count_if(flags.begin(), flags.end(), [](double f) { return int(f) % 2 == 1; });
  return flags.empty() ? 0 : double(count) / double(flags.size());
}

}  // namespace basis::ops

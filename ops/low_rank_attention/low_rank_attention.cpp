// n = sum_j M (u1 . u2_j) (v_j, 1),  y = n[:Dv] / n[Dv]        g = (dy / n[Dv], -(dy . y) / n[Dv])
// du1_i = sum_j M (g_i . (v_j, 1)) u2_j    du2_j = sum_i M ((v_j, 1) . g_i) u1_i    dv_j = sum_i M (u2_j . u1_i) g_i
// Each line is the same masked product, of rows over keys or transposed.
#include "ops/low_rank_attention/low_rank_attention.h"

#include <algorithm>

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {
namespace {

struct Sizes {
  int64_t B, T, S, H, Hkv, r, Dv, front, offset, row_tiles, key_tiles;
};

Sizes check(const Tensor& u1, const Tensor& u2, const Tensor& v, const LowRankOptions& o, std::string_view op) {
  require_float(u1, op);
  bool ok = u2.defined() && v.defined() && u1.dim() == 4 && u2.dim() == 4 && v.dim() == 4 && u1.dtype() == u2.dtype() &&
            u1.dtype() == v.dtype() && u1.device() == u2.device() && u1.device() == v.device() &&
            u1.size(0) == u2.size(0) && u1.size(0) == v.size(0) && u2.size(1) == v.size(1) && u2.size(2) == v.size(2) &&
            u1.size(3) == u2.size(3) && u2.size(2) > 0 && u1.size(2) % u2.size(2) == 0 && u1.size(1) <= u2.size(1);
  require(ok, op, "u1 [B,T,H,r], u2 [B,S,Hkv,r], v [B,S,Hkv,Dv] with H a multiple of Hkv and T <= S",
          describe(u1) + ", " + describe(u2) + ", " + describe(v));
  int64_t T = u1.size(1), S = u2.size(1), H = u1.size(2), early = S - T;
  if (o.mask)
    require(o.mask.rows == T && o.mask.keys == S && H % o.mask.groups == 0 && o.mask.bits.device() == u1.device(), op,
            "a mask of " + std::to_string(T) + " rows and " + std::to_string(S) +
                " keys on u1's device, its groups "
                "dividing " +
                std::to_string(H) + " heads",
            std::to_string(o.mask.rows) + ", " + std::to_string(o.mask.keys) + ", " + std::to_string(o.mask.groups));
  if (o.key_lengths)
    require(o.key_lengths.shape() == Shape{u1.size(0)} && o.key_lengths.dtype() == DType::i32 &&
                o.key_lengths.device() == u1.device() && o.key_lengths.is_contiguous(),
            op, "key_lengths i32 [B]", describe(o.key_lengths));
  bool aligned = o.causal && !o.mask;
  int64_t front = aligned ? early % kMaskTile : 0;
  return {u1.size(0),
          T,
          S,
          H,
          u2.size(2),
          u1.size(3),
          v.size(3),
          front,
          aligned ? early / kMaskTile : 0,
          mask_tiles(front + T),
          mask_tiles(S)};
}

class Products {
 public:
  Products(const Sizes& n, const LowRankOptions& o, const Tensor& like)
      : n_(n),
        o_(o),
        device_(like.device()),
        narrow_(like.dtype()),
        wide_(like.dtype() == DType::f64 ? DType::f64 : DType::f32) {}

  Tensor empty(int64_t heads, int64_t tiles, int64_t width) const {
    return Tensor::empty({heads, tiles * kMaskTile, width}, wide_, device_);
  }
  Tensor pack_rows(const Tensor& x) const { return pack(x, n_.front, n_.row_tiles, {}, false); }
  Tensor pack_keys(const Tensor& x, bool ones) const {
    return pack(x, 0, n_.key_tiles, ones ? Tensor() : o_.key_lengths, ones);
  }
  // [B * H, tiles * 64, columns]
  Tensor product(bool transposed, const Tensor& a, const Tensor& x, const Tensor& y, int64_t columns) const {
    Visible visible = describe_mask(transposed, x.size(2));
    Tensor out = empty(n_.B * n_.H, visible.tiles, columns);
    Tensor states = Tensor::empty({x.size(0), visible.slots(), x.size(2), columns}, wide_, device_);
    low_rank_product(device_.type, wide_, visible, a, x, y, states, out);
    return out;
  }
  Tensor unpack(const Tensor& packed, const Tensor& like, bool keys) const {
    Tensor x = like.empty_like();
    low_rank_unpack(device_.type, narrow_, packed, keys ? o_.key_lengths : Tensor(), keys ? 0 : n_.front, x);
    return x;
  }

 private:
  Tensor pack(const Tensor& x, int64_t front, int64_t tiles, const Tensor& lengths, bool ones) const {
    Tensor packed = empty(x.size(0) * x.size(2), tiles, x.size(3) + ones);
    low_rank_pack(device_.type, narrow_, x, lengths, front, ones, packed);
    return packed;
  }
  // A sum costs width x columns numbers of memory: with wide features it takes in more tiles.
  Visible describe_mask(bool transposed, int64_t width) const {
    Visible v{.kind = o_.mask     ? Visible::Kind::lists
                      : o_.causal ? Visible::Kind::causal
                                  : Visible::Kind::full,
              .transposed = transposed,
              .tiles = transposed ? n_.key_tiles : n_.row_tiles,
              .other = transposed ? n_.row_tiles : n_.key_tiles,
              .offset = n_.offset,
              .stride = std::clamp<int64_t>((width + kMaskTile - 1) / kMaskTile, 2, 32),
              .heads = n_.H,
              .groups = 1};
    if (!o_.mask) return v;
    const TileLists& lists = transposed ? o_.mask.by_key : o_.mask.by_row;
    v.groups = o_.mask.groups;
    v.node_begin = lists.node_begin.data<int32_t>(), v.node_ids = lists.nodes.data<int32_t>();
    v.tile_begin = lists.tile_begin.data<int32_t>(), v.square_ids = lists.tiles.data<int32_t>();
    v.bits = o_.mask.bits.data<int64_t>();
    return v;
  }

  const Sizes& n_;
  const LowRankOptions& o_;
  Device device_;
  DType narrow_, wide_;
};

}  // namespace

struct LowRankAttention {
  static constexpr std::string_view name = "low_rank_attention";
  using Attrs = LowRankOptions;

  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& u1, const Tensor& u2, const Tensor& v) {
    Sizes n = check(u1, u2, v, a, name);
    Products p(n, a, u1);
    Tensor o = Tensor::empty({n.B, n.T, n.H, n.Dv}, u1.dtype(), u1.device());
    Tensor mass = Tensor::empty({n.B, n.H, n.T}, u1.dtype() == DType::f64 ? DType::f64 : DType::f32, u1.device());
    if (o.numel()) {
      Tensor sums = p.product(false, p.pack_rows(u1), p.pack_keys(u2, false), p.pack_keys(v, true), n.Dv + 1);
      low_rank_divide(u1.device().type, u1.dtype(), sums, n.front, o, mass);
    }
    ctx.save({u1, u2, v, o, mass});
    return o;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dout) {
    const Tensor &u1 = ctx.saved(0), &u2 = ctx.saved(1), &v = ctx.saved(2);
    Sizes n = check(u1, u2, v, a, name);
    if (!dout.numel()) {
      Tensors zeros{u1.empty_like(), u2.empty_like(), v.empty_like()};
      for (const Tensor& t : zeros) core::fill(t, 0);
      return zeros;
    }
    Products p(n, a, u1);
    Tensor g = p.empty(n.B * n.H, n.row_tiles, n.Dv + 1);
    low_rank_gradient(u1.device().type, u1.dtype(), dout, ctx.saved(3), ctx.saved(4), n.front, g);
    Tensor left = p.pack_rows(u1), right = p.pack_keys(u2, false), values = p.pack_keys(v, true);
    Tensor du1, du2, dv;
    if (ctx.needs(0)) du1 = p.unpack(p.product(false, g, values, right, n.r), u1, false);
    if (ctx.needs(1)) du2 = p.unpack(p.product(true, values, g, left, n.r), u2, true);
    if (ctx.needs(2)) dv = p.unpack(p.product(true, right, left, g, n.Dv), v, true);
    return {du1, du2, dv};
  }

  static std::vector<Sample<LowRankAttention>> samples() {
    auto positive = [](const Shape& shape) { return InputSpec{shape, 0.1, 1.1}; };
    auto inputs = [&](int64_t B, int64_t T, int64_t S, int64_t H, int64_t Hkv, int64_t r, int64_t Dv) {
      return std::vector<InputSpec>{positive({B, T, H, r}), positive({B, S, Hkv, r}), {{B, S, Hkv, Dv}}};
    };
    Attrs full, padded, window, blocks, open_blocks, jumps, changes, decoded;
    full.causal = padded.causal = false;
    padded.key_lengths = Tensor::from(std::vector<int32_t>{3, 5}, {2});
    window.mask = sliding_rows(20, 150, 150);
    blocks.mask = shifted_blocks(16, true, 70, 70), open_blocks.mask = shifted_blocks(32, false, 70, 70);
    decoded.mask = sliding_rows(9, 3, 80);
    std::vector<KeyRange> ranges;
    for (int32_t i = 0; i < 2 * 70; ++i)  // rows that see nothing, one key, and anything
      ranges.push_back(i % 7 == 0   ? KeyRange{5, 5}
                       : i % 7 == 1 ? KeyRange{i % 90, i % 90 + 1}
                                    : KeyRange{i * 37 % 64, 64 + i * 11 % 27});
    jumps.mask = continuous_rows(ranges, 70, 90);
    std::vector<int64_t> begin{0};
    std::vector<int32_t> keys;
    for (int32_t i = 0; i < 140; ++i) {
      if (i > 1) keys.push_back((i * 29 + 3) % 140);
      if (i % 3 == 2) keys.push_back(keys[keys.size() / 2]);
      begin.push_back(int64_t(keys.size()));
    }
    changes.mask = row_changes(begin, keys, 140);
    return {
        {.name = "causal", .attrs = {}, .inputs = inputs(2, 13, 13, 2, 2, 3, 4), .factor = 8, .reduction_length = 39},
        {.name = "full", .attrs = full, .inputs = inputs(1, 9, 9, 2, 2, 4, 3), .factor = 8, .reduction_length = 36},
        {.name = "grouped, several tiles",
         .attrs = {},
         .inputs = inputs(1, 140, 140, 4, 2, 2, 2),
         .factor = 8,
         .reduction_length = 1200},
        {.name = "more keys",
         .attrs = {},
         .inputs = inputs(1, 20, 160, 2, 1, 3, 2),
         .factor = 8,
         .reduction_length = 480},
        {.name = "wide", .attrs = {}, .inputs = inputs(1, 66, 66, 1, 1, 70, 66), .factor = 8, .reduction_length = 4620},
        {.name = "padded", .attrs = padded, .inputs = inputs(2, 6, 6, 2, 2, 2, 3), .factor = 8, .reduction_length = 12},
        {.name = "window",
         .attrs = window,
         .inputs = inputs(1, 150, 150, 1, 1, 4, 3),
         .factor = 8,
         .reduction_length = 80},
        {.name = "shifted blocks",
         .attrs = blocks,
         .inputs = inputs(1, 70, 70, 4, 2, 3, 3),
         .factor = 8,
         .reduction_length = 48},
        {.name = "shifted blocks, full",
         .attrs = open_blocks,
         .inputs = inputs(2, 70, 70, 2, 2, 3, 3),
         .factor = 8,
         .reduction_length = 96},
        {.name = "rows of any range",
         .attrs = jumps,
         .inputs = inputs(1, 70, 90, 2, 1, 3, 2),
         .factor = 8,
         .reduction_length = 270},
        {.name = "changes of rows",
         .attrs = changes,
         .inputs = inputs(1, 140, 140, 1, 1, 3, 2),
         .factor = 8,
         .reduction_length = 420},
        {.name = "last rows",
         .attrs = decoded,
         .inputs = inputs(1, 3, 80, 1, 1, 2, 2),
         .factor = 8,
         .reduction_length = 18},
        {.name = "one", .attrs = {}, .inputs = inputs(1, 1, 1, 1, 1, 1, 1), .factor = 8},
        {.name = "empty", .attrs = {}, .inputs = inputs(2, 0, 0, 2, 2, 3, 4)},
    };
  }
  static std::vector<ErrorSample<LowRankAttention>> error_samples() {
    Attrs other_rows, other_groups, lengths;
    other_rows.mask = sliding_rows(2, 3, 3), other_groups.mask = shifted_blocks(2, true, 4, 4);
    lengths.key_lengths = Tensor::from(std::vector<int32_t>{1, 2}, {2});
    std::vector<InputSpec> fine{{{1, 4, 1, 2}}, {{1, 4, 1, 2}}, {{1, 4, 1, 2}}};
    return {{"heads not a multiple", {}, {{{1, 2, 3, 4}}, {{1, 2, 2, 4}}, {{1, 2, 2, 4}}}},
            {"fewer keys", {}, {{{1, 3, 1, 4}}, {{1, 2, 1, 4}}, {{1, 2, 1, 4}}}},
            {"ranks differ", {}, {{{1, 2, 1, 4}}, {{1, 2, 1, 3}}, {{1, 2, 1, 4}}}},
            {"a mask of other rows", other_rows, fine},
            {"two masks for one head", other_groups, fine},
            {"two lengths for one row", lengths, fine}};
  }
};
REGISTER_OP(LowRankAttention)

Var low_rank_attention(const Var& u1, const Var& u2, const Var& v, const LowRankOptions& options) {
  return autograd::apply<LowRankAttention>(options, u1, u2, v);
}

}  // namespace basis::ops

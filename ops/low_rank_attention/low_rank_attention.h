// Attention whose weights are products of features of low rank, with the masks of "Conv-Basis: A New Paradigm for
// Efficient Attention Inference and Gradient Computation in Transformers" (arXiv 2405.05219, section on low rank; its
// Algorithm 4 is the causal mask):
//
//   y[i] = sum_j M(i, j) (u1[i] . u2[j]) v[j] / sum_j M(i, j) (u1[i] . u2[j])
//
// in O(T r Dv): sums of u2[j] v[j]^T, [r, Dv] each, over tiles of 64 keys are carried from tile to tile (causal), or
// combined in a segment tree (other masks: row_mask.h), and the tiles in which rows differ are evaluated pair by pair.
#pragma once

#include "ops/common/check.h"
#include "ops/low_rank_attention/row_mask.h"

namespace basis::ops {

struct LowRankOptions {
  bool causal = true;  // query i sees keys j <= i + S - T
  RowMask mask;        // over `causal`, where given: of T rows and S keys, groups dividing H
  Tensor key_lengths;  // [B] i32 or undefined: keys from this index on are padding

  LowRankOptions to(Device device) const { return {causal, mask.to(device), key_lengths.to(device)}; }
};

// u1 [B,T,H,r], u2 [B,S,Hkv,r], v [B,S,Hkv,Dv], one float dtype; Hkv divides H; T <= S -> [B,T,H,Dv]. Sums in f32 (f64
// for f64). A row that sees no key gives 0. The weights of a row must not sum to 0 otherwise: features whose products
// are positive (see ops/attention_features) never do. Throws core::Error for shapes and a mask of other extents.
Var low_rank_attention(const Var& u1, const Var& u2, const Var& v, const LowRankOptions& options = {});
struct Span {
  int64_t begin, end;
};

// The visible pairs of one product as kernels read them: tile t of the rows, or transposed of the keys, sees the sum at
// `node` of each of `nodes`, and of each square the pairs that `sees` tells.
struct Visible {
  enum class Kind : uint8_t { causal, full, lists };
  Kind kind;
  bool transposed;        // tiles are of keys, and the other side are the rows
  int64_t tiles, other;   // of this side, and of the other
  int64_t offset;         // causal: tile t of the rows holds positions (t + offset) 64 ...
  int64_t stride;         // causal, full: tiles of the other side that one sum takes in
  int64_t heads, groups;  // query heads, and masks among them
  const int32_t *node_begin, *node_ids, *tile_begin, *square_ids;
  const int64_t* bits;

  BASIS_HOST_DEVICE int64_t slots() const {
    return kind == Kind::lists ? 2 * other : (other + stride - 1) / stride + 1;
  }
  BASIS_HOST_DEVICE int64_t list(int64_t head, int64_t t) const { return head % heads * groups / heads * tiles + t; }
  BASIS_HOST_DEVICE int64_t first_seen(int64_t t) const { return t - offset > 0 ? t - offset : 0; }  // transposed

  BASIS_HOST_DEVICE Span nodes(int64_t head, int64_t t) const {
    if (kind == Kind::full) return {slots() - 1, slots()};
    int64_t at = list(head, t);
    if (kind == Kind::lists) return {node_begin[at], node_begin[at + 1]};
    int64_t slot = transposed ? first_seen(t) / stride + 1 : (t + offset) / stride;
    if (slot > slots() - 1) slot = slots() - 1;
    return {slot, slot + 1};
  }
  BASIS_HOST_DEVICE int64_t node(int64_t e) const { return kind == Kind::lists ? node_ids[e] : e; }

  BASIS_HOST_DEVICE Span squares(int64_t head, int64_t t) const {
    if (kind == Kind::full) return {0, 0};
    int64_t at = list(head, t);
    if (kind == Kind::lists) return {tile_begin[at], tile_begin[at + 1]};
    if (!transposed) return {(t + offset) / stride * stride, t + offset + 1};
    int64_t first = first_seen(t), end = (first / stride + 1) * stride;
    return {first, end < other ? end : other};
  }
  BASIS_HOST_DEVICE int64_t tile(int64_t e) const { return kind == Kind::lists ? square_ids[2 * e] : e; }
  BASIS_HOST_DEVICE bool sees(int64_t e, int64_t t, int64_t i, int64_t j) const {
    if (kind == Kind::lists) {
      uint64_t word = uint64_t(bits[int64_t(square_ids[2 * e + 1]) * kMaskTile + (transposed ? j : i)]);
      return word >> (transposed ? i : j) & 1;
    }
    if (transposed) return e > t - offset || j >= i;
    return e < t + offset || j <= i;
  }
};

// Packed operands: [heads, tiles * 64, width] in f32 (f64), zeros outside. A packed position p is index p - front.
// x [B,N,H,w] -> packed [B * H, tiles * 64, w + ones], the last column 1 where `ones`; keys beyond `lengths` are zeros.
inline constinit KernelTable<void(const Tensor& x, const Tensor& lengths, int64_t front, bool ones,
                                  const Tensor& packed)>
    low_rank_pack{"low_rank_attention pack"};
// out[i] = sum over visible j of (a[i] . x[j]) y[j]; head z of out's reads head z / (heads / its heads) of each
// operand; `columns` of y's. states: [heads of x, slots, w, columns] scratch.
inline constinit KernelTable<void(const Visible&, const Tensor& a, const Tensor& x, const Tensor& y,
                                  const Tensor& states, const Tensor& out)>
    low_rank_product{"low_rank_attention"};
// sums [B * H, tiles * 64, Dv + 1] -> o = sums / last column, and mass [B,H,T]: that column.
inline constinit KernelTable<void(const Tensor& sums, int64_t front, const Tensor& o, const Tensor& mass)>
    low_rank_divide{"low_rank_attention divide"};
// g [B * H, tiles * 64, Dv + 1]: the gradient of `sums`, do / mass and -(do . o) / mass; 0 where mass is 0.
inline constinit KernelTable<void(const Tensor& dout, const Tensor& o, const Tensor& mass, int64_t front,
                                  const Tensor& g)>
    low_rank_gradient{"low_rank_attention backward"};
// The inverse of pack: x [B,N,Hx,w] = the sum of packed [B * H, ...] over the heads that share one; 0 beyond `lengths`.
inline constinit KernelTable<void(const Tensor& packed, const Tensor& lengths, int64_t front, const Tensor& x)>
    low_rank_unpack{"low_rank_attention unpack"};

}  // namespace basis::ops

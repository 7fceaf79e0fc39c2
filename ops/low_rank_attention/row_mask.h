// Which keys each row of an attention matrix sees, for masks that change little from row to row (arXiv 2405.05219,
// section on low rank): kept as squares of 64 rows x 64 keys. Squares that are visible throughout are sums over nodes
// of a segment tree; the others hold one bit a pair. So nothing is ever subtracted: a prefix sum less another, or a
// removed key, would leave the rounding error of keys that a row does not see.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/common/check.h"

namespace basis::ops {

inline constexpr int64_t kMaskTile = 64;
inline int64_t mask_tiles(int64_t n) { return (n + kMaskTile - 1) / kMaskTile; }

// Keys begin <= j < end; none where begin >= end.
struct KeyRange {
  int32_t begin, end;
};

// What each tile of one side sees of the other side's tiles; all i32. Tiles count g * tiles + t for mask group g.
struct TileLists {
  Tensor node_begin;  // [groups * tiles + 1] into nodes
  Tensor nodes;       // of the segment tree over the n tiles of the other side: n + t is tile t, i is 2i and 2i + 1
  Tensor tile_begin;  // [groups * tiles + 1] into tiles
  Tensor tiles;       // [squares, 2]: the other side's tile, and the square's place in `bits`
  TileLists to(Device d) const { return {node_begin.to(d), nodes.to(d), tile_begin.to(d), tiles.to(d)}; }
};

struct RowMask {
  int64_t rows = 0, keys = 0, groups = 0;  // groups: masks by heads; head h of H has mask h * groups / H
  TileLists by_row, by_key;
  Tensor bits;  // i64 [squares, 64]: bit j of word i says whether row i of the square sees its key j

  explicit operator bool() const { return bits.defined(); }
  RowMask to(Device d) const {
    return bits ? RowMask{rows, keys, groups, by_row.to(d), by_key.to(d), bits.to(d)} : RowMask();
  }
};

// Continuous-row mask: row i of group g sees ranges[g * rows + i], any ranges. The work of a product is that of the
// squares a range's ends pass through, (rows / 64) (1 + how far the ends move within 64 rows, in tiles), plus
// log(keys / 64) nodes for each 64 rows; ends that jump about everywhere cost at most rows x keys.
RowMask continuous_rows(const std::vector<KeyRange>& ranges, int64_t rows, int64_t keys);

// Row-change mask: row i sees what row i - 1 sees (row 0: nothing), but for the keys changes[begin[i] .. begin[i+1]),
// which it sees if row i - 1 does not and the other way round. Linear in rows where few keys change a row.
RowMask row_changes(const std::vector<int64_t>& begin, const std::vector<int32_t>& changes, int64_t keys);

// LongLoRA's shifted sparse attention (arXiv 2309.12307): blocks of `width` positions, which for the second half of the
// heads begin width / 2 earlier. A row sees its block, up to itself if causal. Nothing wraps around the end, where the
// original lets the first tokens see the last. The rows are the last `rows` of `keys` positions.
RowMask shifted_blocks(int64_t width, bool causal, int64_t rows, int64_t keys);
// Row i sees the last `width` keys up to itself. The rows are the last `rows` of `keys` positions.
RowMask sliding_rows(int64_t width, int64_t rows, int64_t keys);

}  // namespace basis::ops

#include "ops/low_rank_attention/row_mask.h"

#include <algorithm>
#include <array>

namespace basis::ops {
namespace {

using Words = std::array<uint64_t, kMaskTile>;  // word i: the keys of the square that row i sees

// One side's lists while they grow.
struct Lists {
  std::vector<int32_t> node_begin{0}, nodes, tile_begin{0}, tiles;

  // The nodes that cover tiles [begin, end) of n.
  void cover(int64_t begin, int64_t end, int64_t n) {
    for (begin += n, end += n; begin < end; begin /= 2, end /= 2) {
      if (begin % 2) nodes.push_back(int32_t(begin++));
      if (end % 2) nodes.push_back(int32_t(--end));
    }
  }
  void close_tile() {
    node_begin.push_back(int32_t(nodes.size()));
    tile_begin.push_back(int32_t(tiles.size() / 2));
  }
  TileLists finish() const {
    auto tensor = [](const std::vector<int32_t>& v) { return Tensor::from(v, {int64_t(v.size())}); };
    return {tensor(node_begin), tensor(nodes), tensor(tile_begin), Tensor::from(tiles, {int64_t(tiles.size()) / 2, 2})};
  }
};

class Builder {
 public:
  Builder(int64_t rows, int64_t keys, int64_t groups)
      : rows_(rows), keys_(keys), groups_(groups), row_tiles_(mask_tiles(rows)), key_tiles_(mask_tiles(keys)) {
    start_group();
  }

  int64_t valid_rows(int64_t tile) const { return std::min(kMaskTile, rows_ - tile * kMaskTile); }
  uint64_t valid_keys(int64_t tile) const {
    int64_t n = keys_ - tile * kMaskTile;
    return n >= kMaskTile ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
  }

  // The current tile of rows sees key tiles [begin, end) throughout.
  void full(int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) now_[size_t(t)] = 1;
  }
  // The current tile of rows sees this much of a key tile; words of all or no valid keys become full or nothing.
  void square(int64_t tile, const Words& words) {
    uint64_t any = 0, every = valid_keys(tile);
    for (int64_t i = 0; i < valid_rows(row_tile_); ++i) any |= words[size_t(i)], every &= words[size_t(i)];
    if (!any) return;
    if (every == valid_keys(tile)) return full(tile, tile + 1);
    int32_t place = int32_t(bits_.size() / size_t(kMaskTile));
    bits_.insert(bits_.end(), words.begin(), words.end());
    by_row_.tiles.insert(by_row_.tiles.end(), {int32_t(tile), place});
    squares_[size_t(tile)].push_back({int32_t(row_tile_), place});
  }
  // Ends the current tile of rows, and after the last one the group.
  void close_tile() {
    for (int64_t t = 0; t < key_tiles_; ++t) {
      if (now_[size_t(t)] && (t == 0 || !now_[size_t(t - 1)])) run_ = t;
      if (now_[size_t(t)] && (t + 1 == key_tiles_ || !now_[size_t(t + 1)])) by_row_.cover(run_, t + 1, key_tiles_);
      if (now_[size_t(t)] && !before_[size_t(t)]) since_[size_t(t)] = row_tile_;
      if (!now_[size_t(t)] && before_[size_t(t)]) spans_[size_t(t)].push_back({since_[size_t(t)], row_tile_});
    }
    by_row_.close_tile();
    before_.swap(now_);
    std::fill(now_.begin(), now_.end(), uint8_t(0));
    if (++row_tile_ == row_tiles_) close_group();
  }
  RowMask finish() const {
    std::vector<int64_t> bits(bits_.begin(), bits_.end());
    return {rows_,
            keys_,
            groups_,
            by_row_.finish(),
            by_key_.finish(),
            Tensor::from(bits, {int64_t(bits.size()) / kMaskTile, kMaskTile})};
  }

 private:
  void start_group() {
    row_tile_ = 0;
    now_.assign(size_t(key_tiles_), 0), before_ = now_;
    since_.assign(size_t(key_tiles_), 0);
    spans_.assign(size_t(key_tiles_), {});
    squares_.assign(size_t(key_tiles_), {});
  }
  void close_group() {
    for (size_t t = 0; t < size_t(key_tiles_); ++t) {
      if (before_[t]) spans_[t].push_back({since_[t], row_tiles_});
      for (auto [begin, end] : spans_[t]) by_key_.cover(begin, end, row_tiles_);
      for (auto [tile, place] : squares_[t]) by_key_.tiles.insert(by_key_.tiles.end(), {tile, place});
      by_key_.close_tile();
    }
    start_group();
  }

  int64_t rows_, keys_, groups_, row_tiles_, key_tiles_, row_tile_ = 0, run_ = 0;
  Lists by_row_, by_key_;
  std::vector<uint64_t> bits_;
  std::vector<uint8_t> now_, before_;  // key tiles that this and the previous tile of rows see throughout
  std::vector<int64_t> since_;         // the tile of rows from which on a key tile is seen throughout
  std::vector<std::vector<std::pair<int64_t, int64_t>>> spans_;
  std::vector<std::vector<std::pair<int32_t, int32_t>>> squares_;
};

void require_extent(int64_t rows, int64_t keys) {
  require(rows >= 1 && keys >= 1, "row mask", "at least one row and one key",
          std::to_string(rows) + ", " + std::to_string(keys));
}

// Bits [begin, end) within one word, for any begin and end.
uint64_t bits_between(int64_t begin, int64_t end) {
  begin = std::clamp<int64_t>(begin, 0, kMaskTile), end = std::clamp<int64_t>(end, 0, kMaskTile);
  if (begin >= end) return 0;
  return (~uint64_t{0} >> (kMaskTile - (end - begin))) << begin;
}

}  // namespace

RowMask continuous_rows(const std::vector<KeyRange>& ranges, int64_t rows, int64_t keys) {
  require_extent(rows, keys);
  int64_t groups = int64_t(ranges.size()) / rows;
  require(groups >= 1 && groups * rows == int64_t(ranges.size()), "continuous_rows", "one range a row",
          std::to_string(ranges.size()) + " for " + std::to_string(rows) + " rows");
  for (KeyRange r : ranges)
    require(r.begin >= 0 && r.end <= keys, "continuous_rows", "ranges within [0, " + std::to_string(keys) + "]",
            "[" + std::to_string(r.begin) + ", " + std::to_string(r.end) + ")");
  Builder mask(rows, keys, groups);
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t tile = 0; tile < mask_tiles(rows); ++tile) {
      const KeyRange* of = ranges.data() + g * rows + tile * kMaskTile;
      int64_t n = mask.valid_rows(tile), low = keys, high = 0, inner_low = 0, inner_high = keys;
      for (int64_t i = 0; i < n; ++i) {
        bool none = of[i].begin >= of[i].end;
        if (none) inner_high = 0;
        if (none) continue;
        low = std::min<int64_t>(low, of[i].begin), high = std::max<int64_t>(high, of[i].end);
        inner_low = std::max<int64_t>(inner_low, of[i].begin), inner_high = std::min<int64_t>(inner_high, of[i].end);
      }
      int64_t full_begin = mask_tiles(inner_low);
      int64_t full_end = inner_high == keys ? mask_tiles(keys) : inner_high / kMaskTile;
      mask.full(full_begin, full_end);
      for (int64_t t = low / kMaskTile; t < mask_tiles(high); ++t) {
        if (t >= full_begin && t < full_end) continue;
        Words words{};
        for (int64_t i = 0; i < n; ++i)
          words[size_t(i)] = bits_between(of[i].begin - t * kMaskTile, of[i].end - t * kMaskTile);
        mask.square(t, words);
      }
      mask.close_tile();
    }
  return mask.finish();
}

RowMask row_changes(const std::vector<int64_t>& begin, const std::vector<int32_t>& changes, int64_t keys) {
  int64_t rows = int64_t(begin.size()) - 1;
  require_extent(rows, keys);
  bool ok = begin.front() == 0 && begin.back() == int64_t(changes.size()) && std::is_sorted(begin.begin(), begin.end());
  require(ok, "row_changes", "places that ascend from 0 to the number of changes", "others");
  for (int32_t key : changes)
    require(key >= 0 && key < keys, "row_changes", "keys in [0, " + std::to_string(keys) + ")", std::to_string(key));
  Builder mask(rows, keys, 1);
  std::vector<uint64_t> seen(size_t(mask_tiles(keys)));  // by the row before
  std::vector<int32_t> place(size_t(mask_tiles(keys)),
                             -1);  // of a key tile among those that change in this tile of rows
  for (int64_t tile = 0; tile < mask_tiles(rows); ++tile) {
    int64_t n = mask.valid_rows(tile), first = tile * kMaskTile;
    std::vector<int32_t> touched;
    std::vector<Words> words;
    for (int64_t e = begin[size_t(first)]; e < begin[size_t(first + n)]; ++e)
      if (int32_t t = changes[size_t(e)] / int32_t(kMaskTile); place[size_t(t)] < 0)
        place[size_t(t)] = int32_t(touched.size()), touched.push_back(t);
    words.resize(touched.size());
    for (int64_t t = 0; t < mask_tiles(keys); ++t) {
      if (place[size_t(t)] >= 0) continue;
      if (seen[size_t(t)] == mask.valid_keys(t)) {
        mask.full(t, t + 1);
      } else if (seen[size_t(t)]) {
        Words all;
        all.fill(seen[size_t(t)]);
        mask.square(t, all);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t e = begin[size_t(first + i)]; e < begin[size_t(first + i + 1)]; ++e)
        seen[size_t(changes[size_t(e)] / kMaskTile)] ^= uint64_t{1} << (changes[size_t(e)] % kMaskTile);
      for (size_t s = 0; s < touched.size(); ++s) words[s][size_t(i)] = seen[size_t(touched[s])];
    }
    for (size_t s = 0; s < touched.size(); ++s) {
      std::fill(words[s].begin() + n, words[s].end(), uint64_t{0});
      mask.square(touched[s], words[s]);
      place[size_t(touched[s])] = -1;
    }
    mask.close_tile();
  }
  return mask.finish();
}

RowMask shifted_blocks(int64_t width, bool causal, int64_t rows, int64_t keys) {
  require_extent(rows, keys);
  require(width >= 2 && width % 2 == 0 && rows <= keys, "shifted_blocks",
          "an even width and at most as many rows as keys",
          std::to_string(width) + ", " + std::to_string(rows) + " of " + std::to_string(keys));
  std::vector<KeyRange> ranges;
  for (int64_t shift : {int64_t{0}, width / 2})
    for (int64_t p = keys - rows; p < keys; ++p) {
      int64_t begin = (p + shift) / width * width - shift;
      ranges.push_back({int32_t(std::max<int64_t>(0, begin)), int32_t(causal ? p + 1 : std::min(keys, begin + width))});
    }
  return continuous_rows(ranges, rows, keys);
}

RowMask sliding_rows(int64_t width, int64_t rows, int64_t keys) {
  require_extent(rows, keys);
  require(width >= 1 && rows <= keys, "sliding_rows", "a width of at least 1 and at most as many rows as keys",
          std::to_string(width) + ", " + std::to_string(rows) + " of " + std::to_string(keys));
  std::vector<KeyRange> ranges;
  for (int64_t p = keys - rows; p < keys; ++p)
    ranges.push_back({int32_t(std::max<int64_t>(0, p + 1 - width)), int32_t(p + 1)});
  return continuous_rows(ranges, rows, keys);
}

}  // namespace basis::ops

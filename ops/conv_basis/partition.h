// How one head's time axis is cut: tiles of L positions, segments between breakpoints, and cells, their intersections.
#pragma once

#include <cstdint>
#include <vector>

namespace basis::ops {

struct Partition {
  struct Cell {
    int64_t tile, segment, begin, end;  // positions [begin, end)
  };

  // `starts` ascend from 0 and are below T.
  Partition(int64_t T, int64_t L, std::vector<int64_t> starts);

  int64_t segments() const { return int64_t(starts.size()); }
  int64_t segment_end(int64_t r) const { return r + 1 < segments() ? starts[size_t(r + 1)] : T; }
  int64_t first_tile(int64_t r) const { return starts[size_t(r)] / L; }
  bool aligned() const { return int64_t(cells.size()) == tiles; }  // every cell is a tile

  int64_t T, L, tiles;
  std::vector<int64_t> starts;    // the breakpoints
  std::vector<int64_t> segment;   // [T] the segment of each position
  std::vector<Cell> cells;        // in time order
  std::vector<int64_t> cells_to;  // [tiles + 1] cells of tile t: [cells_to[t], cells_to[t + 1])
};

inline Partition::Partition(int64_t T_, int64_t L_, std::vector<int64_t> starts_)
    : T(T_), L(L_), tiles((T_ + L_ - 1) / L_), starts(std::move(starts_)), segment(size_t(T_)), cells_to{0} {
  for (int64_t r = 0; r < segments(); ++r)
    for (int64_t i = starts[size_t(r)]; i < segment_end(r); ++i) segment[size_t(i)] = r;
  for (int64_t t = 0; t < tiles; ++t) {
    int64_t end = t * L + L < T ? t * L + L : T;
    for (int64_t begin = t * L; begin < end;) {
      int64_t r = segment[size_t(begin)], stop = segment_end(r) < end ? segment_end(r) : end;
      cells.push_back({t, r, begin, stop});
      begin = stop;
    }
    cells_to.push_back(int64_t(cells.size()));
  }
}

}  // namespace basis::ops

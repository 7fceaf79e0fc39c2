// Channels picked and put in order, and where Basis Decomposition keeps what is beside its slice.
#pragma once

#include <cstdint>
#include <vector>

#include "core/factor/basis.h"

namespace basis::trainers::hf {

using Channels = std::vector<int64_t>;

// to[:, i] = from[:, channels[i]], or with `inverse` to[:, channels[i]] = from[:, i]; `columns` of them, the others 0.
// from [N, M] f64 on the CPU.
core::Tensor take_columns(const core::Tensor& from, const Channels& channels, int64_t columns, bool inverse);
core::Tensor transposed(const core::Tensor& x);
Channels identity(int64_t d);
// Front rows first, back rows last, the others ascending between them.
Channels order_of(int64_t d, const Channels& front, const Channels& back);
// C_h's columns in the order in which a BdProjection reads the channels beside its slice.
core::Tensor stored_c(const core::BasisFactors& f, const Channels& order, bool back);
// The dense [H dh, d] weight of a BdProjection: the identity on its slice, C beside it.
core::Tensor written_out(const core::Tensor& c, int64_t dh, const Channels& order, bool back);

}  // namespace basis::trainers::hf

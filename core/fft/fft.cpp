#include "core/fft/fft.h"

#include <bit>

namespace basis::core {
namespace {

// x and its spectrum agree.
void check(const Tensor& x, const Tensor& spectrum, const char* where) {
  bool ok = x.dim() >= 2 && spectrum.dim() == x.dim() + 1 && x.is_contiguous() && spectrum.is_contiguous() &&
            x.dtype() == spectrum.dtype() && x.device() == spectrum.device() && x.size(-2) >= 1 &&
            std::has_single_bit(uint64_t(x.size(-2)));
  if (ok) {
    Shape expected = x.shape();
    for (int axis = 0; axis < x.dim() - 2; ++axis) ok = ok && spectrum.size(axis) == expected[axis];
    ok = ok && spectrum.size(-3) == x.size(-2) / 2 + 1 && spectrum.size(-2) == x.size(-1) && spectrum.size(-1) == 2;
  }
  if (!ok)
    throw Error({.where = where,
                 .expected = "contiguous x [..., N, C] and spectrum [..., N/2 + 1, C, 2] with N a power of two",
                 .got = x.shape().str() + " and " + spectrum.shape().str()});
}

}  // namespace

void rfft(const Tensor& x, const Tensor& spectrum) {
  check(x, spectrum, "rfft");
  if (x.numel()) rfft_kernel(x.device().type, x.dtype(), x, spectrum);
}

void irfft(const Tensor& spectrum, const Tensor& x) {
  check(x, spectrum, "irfft");
  if (x.numel()) irfft_kernel(x.device().type, x.dtype(), spectrum, x);
}

}  // namespace basis::core

#include "trainers/hf/channels.h"

#include <algorithm>
#include <numeric>

namespace basis::trainers::hf {

using core::DType;
using core::Tensor;

Tensor take_columns(const Tensor& from, const Channels& channels, int64_t columns, bool inverse) {
  int64_t rows = from.size(0);
  Tensor to = Tensor::zeros({rows, columns}, DType::f64);
  const double* in = from.data<double>();
  double* out = to.data<double>();
  int64_t n = from.size(1), taken = int64_t(channels.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < taken; ++i) {
      int64_t c = channels[size_t(i)];
      out[r * columns + (inverse ? c : i)] = in[r * n + (inverse ? i : c)];
    }
  return to;
}

Tensor transposed(const Tensor& x) { return x.transpose(0, 1).contiguous(); }

Channels identity(int64_t d) {
  Channels c(static_cast<size_t>(d));
  std::iota(c.begin(), c.end(), 0);
  return c;
}

Channels order_of(int64_t d, const Channels& front, const Channels& back) {
  Channels order = front;
  for (int64_t i = 0; i < d; ++i)
    if (std::find(front.begin(), front.end(), i) == front.end() && std::find(back.begin(), back.end(), i) == back.end())
      order.push_back(i);
  order.insert(order.end(), back.begin(), back.end());
  return order;
}

Tensor stored_c(const core::BasisFactors& f, const Channels& order, bool back) {
  int64_t dh = int64_t(f.rows.size()), d = int64_t(order.size());
  Channels columns;
  for (int64_t i = back ? 0 : dh; i < (back ? d - dh : d); ++i)
    columns.push_back(std::find(f.rest.begin(), f.rest.end(), order[size_t(i)]) - f.rest.begin());
  return take_columns(f.c, columns, d - dh, false);
}

Tensor written_out(const Tensor& c, int64_t dh, const Channels& order, bool back) {
  int64_t d = int64_t(order.size());
  Channels beside(order.begin() + (back ? 0 : dh), order.begin() + (back ? d - dh : d));
  Tensor w = take_columns(c, beside, d, true);
  for (int64_t i = 0; i < c.size(0); ++i) w.data<double>()[i * d + order[size_t((back ? d - dh : 0) + i % dh)]] = 1;
  return w;
}

}  // namespace basis::trainers::hf

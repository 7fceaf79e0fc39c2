// Checks every op makes of its inputs, each failing as one core::Error that names the op.
#pragma once

#include <string>
#include <string_view>

#include "autograd/op.h"
#include "core/kernel.h"

namespace basis::ops {

using autograd::Context;
using autograd::ErrorSample;
using autograd::InputSpec;
using autograd::Sample;
using autograd::Tensors;
using autograd::Var;
using core::cpu;
using core::Device;
using core::DeviceType;
using core::DType;
using core::KernelTable;
using core::Shape;
using core::Tensor;

// Throws core::Error{op, expected, got} unless `ok`.
inline void require(bool ok, std::string_view op, const std::string& expected, const std::string& got) {
  if (!ok) throw core::Error({.where = std::string(op), .expected = expected, .got = got});
}

inline std::string describe(const Tensor& t) {
  return t ? std::string(name_of(t.dtype())) + t.shape().str() : std::string("nothing");
}

// `t` is given and is a float tensor.
inline void require_float(const Tensor& t, std::string_view op) {
  require(t.defined() && core::is_float(t.dtype()), op, "a float tensor", describe(t));
}

// `t` has this shape, and the dtype and device of `like`.
inline void require_shape(const Tensor& t, const Shape& shape, const Tensor& like, std::string_view op) {
  require(t.defined() && t.shape() == shape && t.dtype() == like.dtype() && t.device() == like.device(), op,
          std::string(name_of(like.dtype())) + shape.str() + " on " + name_of(like.device()),
          describe(t) + (t ? " on " + name_of(t.device()) : ""));
}

}  // namespace basis::ops

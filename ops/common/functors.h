// Pointwise functions, each one functor with its value and its slope; compiled by the C++ and the CUDA compiler.
#pragma once

#include <cmath>

#include "core/dtype.h"
#include "ops/common/math.h"

namespace basis::ops {

// What the functors with a parameter compute with: this, or on a GPU what its hardware has for 16-bit tensors.
struct Precise {
  template <class T>
  BASIS_HOST_DEVICE static T exp(T x) {
    return fast_exp(x);
  }
  template <class T>
  BASIS_HOST_DEVICE static T ratio(T x, T y) {
    return x / y;
  }
};

// y = f(x): value(x), and slope(x) = f'(x).
struct Tanh {
  template <class T>
  BASIS_HOST_DEVICE static T value(T x) {
    return fast_tanh(x);
  }
  template <class T>
  BASIS_HOST_DEVICE static T slope(T x) {
    T y = fast_tanh(x);
    return 1 - y * y;
  }
};

// x sigmoid(x)
template <class Math>
struct SiluBy {
  template <class T>
  BASIS_HOST_DEVICE static T value(T x) {
    return Math::ratio(x, 1 + Math::exp(-x));
  }
  template <class T>
  BASIS_HOST_DEVICE static T slope(T x) {
    T s = Math::ratio(T(1), 1 + Math::exp(-x));
    return s * (1 + x * (1 - s));
  }
};
using Silu = SiluBy<Precise>;

// x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3): GPT-2's GELU (Hendrycks & Gimpel, arXiv 1606.08415), in
// the equal form x sigmoid(2u), which takes one exponential.
template <class Math>
struct GeluTanhBy {
  template <class T>
  BASIS_HOST_DEVICE static T value(T x) {
    return x * gate(x);
  }
  template <class T>
  BASIS_HOST_DEVICE static T slope(T x) {
    T s = gate(x), du = T(1.5957691216057308) * (1 + T(3 * 0.044715) * x * x);
    return s + x * s * (1 - s) * du;
  }

 private:
  template <class T>
  BASIS_HOST_DEVICE static T gate(T x) {
    return Math::ratio(T(1), 1 + Math::exp(T(-1.5957691216057308) * (x + T(0.044715) * x * x * x)));
  }
};
using GeluTanh = GeluTanhBy<Precise>;

// x Phi(x), with the normal distribution function Phi (BERT's GELU)
struct GeluErf {
  template <class T>
  BASIS_HOST_DEVICE static T value(T x) {
    return T(0.5) * x * (1 + std::erf(x * T(0.7071067811865476)));
  }
  template <class T>
  BASIS_HOST_DEVICE static T slope(T x) {
    T density = T(0.3989422804014327) * fast_exp(T(-0.5) * x * x);
    return T(0.5) * (1 + std::erf(x * T(0.7071067811865476))) + x * density;
  }
};

}  // namespace basis::ops

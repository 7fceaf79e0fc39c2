// What the mutants share: an op made into a registry entry, the checks it fails, and a right op for them to spoil.
#pragma once

#include <gtest/gtest.h>

#include <set>

#include "autograd/gradcheck.h"

namespace basis::autograd {

using Names = std::set<std::string>;

template <class Op>
OpEntry entry() {
  OpEntry e{.name = "mutant"};
  e.samples = [] {
    std::vector<Case> cases;
    for (const Sample<Op>& s : Op::samples()) cases.push_back(detail::erase<Op>(s));
    return cases;
  };
  e.error_samples = [] {
    std::vector<Case> cases;
    for (const ErrorSample<Op>& s : Op::error_samples()) cases.push_back(detail::erase<Op>(s));
    return cases;
  };
  return e;
}

inline Names failed(const OpEntry& op, DType dtype = DType::f64) {
  Names names;
  for (const CheckResult& r : check_op(op, {.dtype = dtype}))
    if (!r.pass) names.insert(r.check);
  return names;
}

template <class Op>
Names failed(DType dtype = DType::f64) {
  return failed(entry<Op>(), dtype);
}

#define EXPECT_CAUGHT(names, check) EXPECT_EQ((names).count(check), 1u) << "not caught by " << (check)

// f(i) for every element of a new tensor like `like`.
template <class F>
Tensor filled(const Tensor& like, F f) {
  Tensor y = like.empty_like();
  core::dispatch(like.dtype(), [&]<class T>(std::type_identity<T>) {
    for (int64_t i = 0; i < y.numel(); ++i) y.data<T>()[i] = core::convert<T>(f(i));
  });
  return y;
}

// y[r,c] = scale x[r,c] w[c], right in every way; the mutants below override one part of it.
template <class Op>
struct Product {
  static constexpr std::string_view name = "mutant";
  struct Attrs {
    double scale = 3;
  };
  static Tensor forward(Context& ctx, const Attrs& a, const Tensor& x, const Tensor& w) {
    auto p = x.to_vector<double>(), q = w.to_vector<double>();
    if (x.dim() != 2) throw core::Error({.where = "mutant", .expected = "[R, C]", .got = x.shape().str()});
    ctx.save({x, w});
    return filled(x, [&](int64_t i) { return a.scale * p[size_t(i)] * q[size_t(i) % q.size()]; });
  }
  static Tensor dx(const Context& ctx, double scale, const Tensor& dy) {
    auto g = dy.to_vector<double>(), q = ctx.saved(1).template to_vector<double>();
    return filled(dy, [&](int64_t i) { return scale * g[size_t(i)] * q[size_t(i) % q.size()]; });
  }
  static Tensor dw(const Context& ctx, double scale, const Tensor& dy, size_t first_row = 0) {
    auto g = dy.to_vector<double>(), p = ctx.saved(0).template to_vector<double>();
    size_t columns = size_t(ctx.saved(1).numel());
    return filled(ctx.saved(1), [&](int64_t c) {
      double sum = 0;
      for (size_t i = first_row * columns + size_t(c); i < g.size(); i += columns) sum += scale * g[i] * p[i];
      return sum;
    });
  }
  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    return {ctx.needs(0) ? dx(ctx, a.scale, dy) : Tensor(), ctx.needs(1) ? dw(ctx, a.scale, dy) : Tensor()};
  }
  static std::vector<Sample<Op>> samples() {
    return {{.name = "small", .attrs = {}, .inputs = {{{3, 5}}, {{5}}}},
            {.name = "square", .attrs = {}, .inputs = {{{4, 4}}, {{4}}}},
            {.name = "one", .attrs = {}, .inputs = {{{1, 1}}, {{1}}}},
            {.name = "empty", .attrs = {}, .inputs = {{{0, 5}}, {{5}}}}};
  }
  static std::vector<ErrorSample<Op>> error_samples() { return {{"vector", {}, {{{5}}, {{5}}}}}; }
};

struct Right : Product<Right> {};

}  // namespace basis::autograd

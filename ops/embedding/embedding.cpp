// y[n] = E[id_n] + P[first + n mod T]
// dE[v] = sum of dy[n] over n with id_n = v        dP[p] = sum of dy[n] over n with first + n mod T = p
#include "ops/embedding/embedding.h"

#include "autograd/registry.h"
#include "core/basic/basic.h"

namespace basis::ops {

struct Embedding {
  static constexpr std::string_view name = "embedding";
  struct Attrs {
    Tensor ids;
    int64_t first = 0;
    int64_t vocabulary = 0, positions = 0;  // rows of the two tables
    Attrs to(Device device) const { return {ids.to(device), first, vocabulary, positions}; }
  };

  static Tensor forward(Context&, const Attrs& a, const Tensor& table, const Tensor& positions) {
    require_float(table, name);
    require(table.dim() == 2 && a.ids.defined() && a.ids.dtype() == DType::i32 && a.ids.device() == table.device(),
            name, "table [V,C] and i32 ids on its device", describe(table) + " and " + describe(a.ids));
    int64_t T = time(a);
    if (positions) {
      require_shape(positions, {positions.size(0), table.size(1)}, table, name);
      require(a.ids.dim() >= 1 && a.first >= 0 && a.first + T <= positions.size(0), name,
              "at most " + std::to_string(positions.size(0)) + " positions", std::to_string(a.first + T));
    }
    Shape shape = a.ids.shape();
    shape.push_back(table.size(1));
    Tensor y = Tensor::empty(shape, table.dtype(), table.device());
    if (y.numel()) embedding_forward(y.device().type, y.dtype(), table, a.ids.contiguous(), positions, a.first, T, y);
    return y;
  }

  static Tensors backward(const Context& ctx, const Attrs& a, const Tensor& dy) {
    int64_t c = dy.size(-1);
    Tensor dtable, dpositions;
    if (ctx.needs(0)) dtable = Tensor::empty({a.vocabulary, c}, dy.dtype(), dy.device());
    if (ctx.needs(1)) dpositions = Tensor::empty({a.positions, c}, dy.dtype(), dy.device());
    if (dy.numel()) {
      embedding_backward(dy.device().type, dy.dtype(), dy, a.ids.contiguous(), a.first, time(a), dtable, dpositions);
    } else {
      if (dtable) core::fill(dtable, 0);
      if (dpositions) core::fill(dpositions, 0);
    }
    return {dtable, dpositions};
  }

  static std::vector<Sample<Embedding>> samples() {
    auto ids = [](std::vector<int32_t> v, const Shape& s) { return Tensor::from(v, s); };
    return {
        {.name = "tokens",
         .attrs = {ids({0, 3, 3, 1, 6, 0}, {6}), 0, 7, 0},
         .inputs = {{{7, 5}}, {.given = false}},
         .reduction_length = 2},
        {.name = "with positions",
         .attrs = {ids({0, 3, 3, 1, 2, 0}, {2, 3}), 1, 4, 5},
         .inputs = {{{4, 5}}, {{5, 5}}},
         .reduction_length = 2},
        {.name = "one", .attrs = {ids({0}, {1, 1}), 0, 1, 1}, .inputs = {{{1, 1}}, {{1, 1}}}},
        {.name = "wide",
         .attrs = {ids({1, 0, 1, 1}, {4}), 0, 2, 0},
         .inputs = {{{2, 130}}, {.given = false}},
         .reduction_length = 3},
        {.name = "no ids", .attrs = {ids({}, {2, 0}), 0, 4, 5}, .inputs = {{{4, 3}}, {{5, 3}}}},
    };
  }
  static std::vector<ErrorSample<Embedding>> error_samples() {
    Tensor ids = Tensor::from(std::vector<int32_t>{0, 5}, {1, 2});
    Tensor good = Tensor::from(std::vector<int32_t>{0, 1}, {1, 2});
    return {{"id outside the table", {ids, 0, 5, 0}, {{{5, 3}}, {.given = false}}, true},
            {"position outside the table", {good, 3, 5, 4}, {{{5, 3}}, {{4, 3}}}},
            {"float ids", {Tensor::zeros({2}, DType::f32), 0, 5, 0}, {{{5, 3}}, {.given = false}}}};
  }

 private:
  static int64_t time(const Attrs& a) { return a.ids.dim() ? std::max<int64_t>(1, a.ids.size(-1)) : 1; }
};
REGISTER_OP(Embedding)

Var embedding(const Var& table, const Tensor& ids) { return embedding(table, ids, {}); }

Var embedding(const Var& table, const Tensor& ids, const Var& positions, int64_t first_position) {
  Embedding::Attrs attrs{ids, first_position, table.size(0), positions ? positions.size(0) : 0};
  return autograd::apply<Embedding>(attrs, table, positions);
}

}  // namespace basis::ops

// The contract of an operation. An op is a static struct
//
//   struct Softmax {
//     static constexpr std::string_view name = "softmax";
//     struct Attrs { int axis = -1; };                                   // what is not differentiated
//     static Tensor forward(Context&, const Attrs&, const Tensor& x);    // or std::array<Tensor, N> for N outputs
//     static Tensors backward(const Context&, const Attrs&, const Tensor& dy);   // one gradient per input, in order;
//                                                                        // undefined where !needs(i)
//     static std::vector<Sample<Softmax>> samples();                     // what the generated checks run on
//   };
//   REGISTER_OP(Softmax)
//
// The Tensor parameters of forward are its differentiable inputs; an undefined one is an optional input not given.
// Tensors that are never differentiated (token ids) are members of Attrs. Inputs arrive contiguous. forward and
// backward write new tensors and never accumulate; only the tape does.
//
// Optional members:  static std::vector<ErrorSample<Op>> error_samples();   calls that must throw core::Error
//                    static constexpr bool bit_reproducible = false;         two runs may differ in the last bits
//                    Attrs Attrs::to(Device) const;                          moves the tensors of Attrs
#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "autograd/context.h"

namespace basis::autograd {

// One input of a sample: filled with uniform values in [low, high).
struct InputSpec {
  Shape shape;
  double low = -1, high = 1;
  bool given = true;           // false: passed undefined
  bool differentiable = true;  // false: no gradient asked for this input
};

template <class Op>
struct Sample {
  std::string name;  // "causal", "odd sizes"
  typename Op::Attrs attrs;
  std::vector<InputSpec> inputs;
  double factor = 1;             // on the tolerance, where the op amplifies rounding: say why at the sample
  int64_t reduction_length = 1;  // length of the longest sum: tolerance grows with its square root
};

template <class Op>
struct ErrorSample {
  std::string name;
  typename Op::Attrs attrs;
  std::vector<InputSpec> inputs;
  bool by_value = false;  // wrong only in the values of an index tensor: read on the CPU, never copied back from a GPU
};

namespace detail {
template <class T>
struct ForwardTraits;
template <class R, class Attrs, class... In>
struct ForwardTraits<R (*)(Context&, const Attrs&, In...)> {
  static_assert((std::same_as<In, const Tensor&> && ...), "an op's inputs are const Tensor&");
  static constexpr size_t inputs = sizeof...(In);
};
template <class T>
struct OutputCount : std::integral_constant<size_t, 1> {};
template <size_t N>
struct OutputCount<std::array<Tensor, N>> : std::integral_constant<size_t, N> {};
}  // namespace detail

template <class Op>
inline constexpr size_t input_count = detail::ForwardTraits<decltype(&Op::forward)>::inputs;

// Runs an op on Vars and records it. Returns one Var per output.
template <class Op>
std::vector<Var> apply_all(const typename Op::Attrs& attrs, const std::vector<Var>& inputs) {
  constexpr size_t n = input_count<Op>;
  if (inputs.size() != n)
    throw core::Error({.where = std::string(Op::name),
                       .expected = std::to_string(n) + " inputs",
                       .got = std::to_string(inputs.size())});
  bool recording = needs_recording(inputs);
  Context context;
  std::array<Tensor, n> values;
  for (size_t i = 0; i < n; ++i) {
    if (inputs[i]) values[i] = inputs[i].value().contiguous();
    context.set_needs(i, recording && inputs[i].requires_grad());
  }
  auto result = [&]<size_t... I>(std::index_sequence<I...>) { return Op::forward(context, attrs, values[I]...); }
  (std::make_index_sequence<n>{});
  constexpr size_t n_out = detail::OutputCount<decltype(result)>::value;

  Tensors outputs;
  if constexpr (std::same_as<decltype(result), Tensor>)
    outputs = {std::move(result)};
  else
    outputs.assign(std::make_move_iterator(result.begin()), std::make_move_iterator(result.end()));
  if (!recording) {
    std::vector<Var> vars;
    for (Tensor& t : outputs) vars.emplace_back(std::move(t));
    return vars;
  }
  auto backward = [context = std::move(context), attrs](const Tensors& grads) {
    return [&]<size_t... I>(std::index_sequence<I...>)->Tensors {
      return Op::backward(context, attrs, grads[I].contiguous()...);
    }
    (std::make_index_sequence<n_out>{});
  };
  return record(Op::name.data(), inputs, std::move(outputs), std::move(backward));
}

// Runs an op with one output.
template <class Op, std::convertible_to<Var>... In>
Var apply(const typename Op::Attrs& attrs, const In&... inputs) {
  return apply_all<Op>(attrs, {inputs...})[0];
}

}  // namespace basis::autograd

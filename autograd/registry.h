// The registry of all ops, type-erased for the generated checks: tests and `basis gradcheck` walk it, so an op cannot
// be forgotten.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "autograd/op.h"
#include "core/kernel.h"

namespace basis::autograd {

// A sample with its op's type erased. `run` calls the op through the tape.
struct Case {
  std::string name;
  std::vector<InputSpec> inputs;
  double factor = 1;
  int64_t reduction_length = 1;
  bool cpu_only = false;  // an error that a device does not look for
  std::function<std::vector<Var>(const std::vector<Var>&, Device)> run;
  std::function<std::vector<Var>(const std::vector<Var>&, Device)> reference;  // composite of other ops; may be empty
};

struct OpEntry {
  std::string name;
  bool bit_reproducible = true;
  std::function<std::vector<Case>()> samples;
  std::function<std::vector<Case>()> error_samples;
};

// In registration order. The list lives in autograd/registry.cpp.
std::vector<OpEntry>& registry();

// The composite reference of a fused op, by op name; registered from ops/composite. `attrs` points to Op::Attrs.
using Reference = std::function<std::vector<Var>(const void* attrs, const std::vector<Var>&)>;
bool set_reference(std::string_view op, Reference reference);
const Reference* find_reference(std::string_view op);

template <class Op>
bool add_reference(std::vector<Var> (*f)(const typename Op::Attrs&, const std::vector<Var>&)) {
  return set_reference(Op::name, [f](const void* attrs, const std::vector<Var>& in) {
    return f(*static_cast<const typename Op::Attrs*>(attrs), in);
  });
}

namespace detail {

template <class Attrs>
Attrs attrs_on(const Attrs& attrs, Device device) {
  if constexpr (requires { attrs.to(device); })
    return attrs.to(device);
  else
    return attrs;
}

template <class Op, class S>
Case erase(const S& sample) {
  Case c{.name = sample.name, .inputs = sample.inputs};
  if constexpr (requires { sample.factor; }) c.factor = sample.factor, c.reduction_length = sample.reduction_length;
  if constexpr (requires { sample.by_value; }) c.cpu_only = sample.by_value;
  // Moved to a device once: a second run there copies nothing from the host, so that it can be recorded as a graph.
  using Moved = std::pair<Device, typename Op::Attrs>;
  c.run = [attrs = sample.attrs, moved = std::make_shared<std::optional<Moved>>()](const std::vector<Var>& in,
                                                                                   Device device) {
    if (!*moved || !((*moved)->first == device)) moved->emplace(device, attrs_on(attrs, device));
    return apply_all<Op>((*moved)->second, in);
  };
  if (const Reference* f = find_reference(Op::name))
    c.reference = [f, attrs = sample.attrs](const std::vector<Var>& in, Device device) {
      auto moved = attrs_on(attrs, device);
      return (*f)(&moved, in);
    };
  return c;
}

template <class Op>
bool register_op() {
  OpEntry entry{.name = std::string(Op::name)};
  if constexpr (requires { Op::bit_reproducible; }) entry.bit_reproducible = Op::bit_reproducible;
  entry.samples = [] {
    std::vector<Case> cases;
    for (const Sample<Op>& s : Op::samples()) cases.push_back(erase<Op>(s));
    return cases;
  };
  entry.error_samples = [] {
    std::vector<Case> cases;
    if constexpr (requires { Op::error_samples(); })
      for (const ErrorSample<Op>& s : Op::error_samples()) cases.push_back(erase<Op>(s));
    return cases;
  };
  registry().push_back(std::move(entry));
  return true;
}

}  // namespace detail
}  // namespace basis::autograd

// At namespace scope in the op's .cpp. Does not compile unless the op has gradient-check samples.
#define REGISTER_OP(Op)                                                                              \
  static_assert(std::is_same_v<decltype(Op::samples()), std::vector<::basis::autograd::Sample<Op>>>, \
                #Op " needs gradient-check samples: static std::vector<Sample<" #Op ">> samples()"); \
  [[maybe_unused]] static const bool BASIS_JOIN(basis_op_, __COUNTER__) = ::basis::autograd::detail::register_op<Op>();

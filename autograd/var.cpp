#include "autograd/var.h"

#include <algorithm>
#include <atomic>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "core/basic/basic.h"

namespace basis::autograd {

// Where a gradient goes: a leaf's accumulator, or one output of the node that made the value. Nodes refer to the slots
// of their inputs and not to the values, so a value lives only as long as somebody reads it.
struct Slot {
  Shape shape;
  DType dtype;
  Device device;
  std::shared_ptr<Node> node;  // null for a leaf
  int output = 0;
  Tensor grad;  // leaves only
  std::vector<std::function<void(Tensor&)>> hooks;
};

struct Var::Impl {
  Tensor value;
  bool requires_grad = false;
  std::shared_ptr<Slot> slot;  // present once a gradient may flow here
};

class Node {
 public:
  ~Node();
  const char* name = "";
  uint64_t order = 0;                         // creation order: an input's node is always older
  std::vector<std::shared_ptr<Slot>> inputs;  // null where no gradient is needed
  std::vector<Slot> outputs;                  // shapes for missing gradients; their node stays null
  BackwardFunction backward;
  bool materialize = true;
};

namespace {
thread_local bool grad_mode = true;
std::atomic<uint64_t> next_order{1};
}  // namespace

// A long chain of nodes would recurse once per op if each destructor released the next: the chain is unrolled here.
Node::~Node() {
  std::vector<std::shared_ptr<Node>> chain;
  auto collect = [&](std::vector<std::shared_ptr<Slot>>& slots) {
    for (auto& slot : slots)
      if (slot && slot->node && slot.use_count() == 1) chain.push_back(std::move(slot->node));
    slots.clear();
  };
  backward = nullptr;
  collect(inputs);
  while (!chain.empty()) {
    std::shared_ptr<Node> n = std::move(chain.back());
    chain.pop_back();
    if (n.use_count() == 1) {
      n->backward = nullptr;
      collect(n->inputs);
    }
  }
}

Var::Var(Tensor value, bool requires_grad) : impl_(std::make_shared<Impl>()) {
  impl_->value = std::move(value);
  if (requires_grad) set_requires_grad(true);
}

const Tensor& Var::value() const {
  if (!impl_) throw core::Error({.where = "Var", .expected = "a value", .got = "an undefined Var"});
  return impl_->value;
}
bool Var::requires_grad() const { return impl_ && impl_->requires_grad; }

const Tensor& Var::grad() const {
  static const Tensor none;
  value();
  return impl_->slot ? impl_->slot->grad : none;
}
void Var::set_grad(Tensor grad) { leaf_slot().grad = std::move(grad); }
void Var::add_hook(std::function<void(Tensor&)> hook) { leaf_slot().hooks.push_back(std::move(hook)); }

Slot& Var::leaf_slot() {
  const Tensor& v = value();
  if (!impl_->slot)
    impl_->slot = std::make_shared<Slot>(Slot{.shape = v.shape(), .dtype = v.dtype(), .device = v.device()});
  return *impl_->slot;
}

void Var::set_value(Tensor value) {
  if (!(value.shape() == this->value().shape()))
    throw core::Error({.where = "set_value", .expected = shape().str(), .got = value.shape().str()});
  if (impl_->slot) impl_->slot->dtype = value.dtype(), impl_->slot->device = value.device();
  impl_->value = std::move(value);
}

void Var::set_requires_grad(bool on) {
  if (on && !core::is_float(value().dtype()))
    throw core::Error(
        {.where = "Var", .expected = "a float tensor for a gradient", .got = std::string(name_of(dtype()))});
  if (on) leaf_slot();
  impl_->requires_grad = on;
}

NoGrad::NoGrad() : before_(grad_mode) { grad_mode = false; }
NoGrad::~NoGrad() { grad_mode = before_; }
WithGrad::WithGrad() : before_(grad_mode) { grad_mode = true; }
WithGrad::~WithGrad() { grad_mode = before_; }
bool grad_enabled() { return grad_mode; }

bool needs_recording(const std::vector<Var>& inputs) {
  return grad_mode && std::any_of(inputs.begin(), inputs.end(), [](const Var& v) { return v.requires_grad(); });
}

std::vector<Var> record(const char* name, const std::vector<Var>& inputs, Tensors outputs, BackwardFunction backward,
                        bool materialize) {
  auto node = std::make_shared<Node>();
  node->name = name;
  node->order = next_order++;
  node->backward = std::move(backward);
  node->materialize = materialize;
  for (const Var& v : inputs) node->inputs.push_back(v.requires_grad() ? v.impl_->slot : nullptr);
  std::vector<Var> vars;
  for (Tensor& t : outputs) {
    Var v(std::move(t), true);
    node->outputs.push_back(*v.impl_->slot);
    v.impl_->slot->node = node;
    v.impl_->slot->output = int(vars.size());
    vars.push_back(std::move(v));
  }
  return vars;
}

// One backward pass: gradients wait at their node until it is the newest one left, then flow to its inputs.
class Backward {
 public:
  void seed(const Var& output, const Tensor& cotangent) {
    if (!output.requires_grad())
      throw core::Error(
          {.where = "backward", .expected = "an output that depends on a leaf with requires_grad", .got = "none"});
    if (!(cotangent.shape() == output.shape()))
      throw core::Error(
          {.where = "backward", .expected = "a cotangent " + output.shape().str(), .got = cotangent.shape().str()});
    count_leaf_uses(output.impl_->slot);
    seeds_.emplace_back(output.impl_->slot, cotangent);
  }

  // From now on gradients of leaves are given to gradients_ instead of being accumulated in them.
  void keep_apart(const std::vector<Var>& leaves) {
    apart_ = true;
    for (const Var& leaf : leaves) {
      if (!leaf.impl_ || !leaf.impl_->slot || leaf.impl_->slot->node)
        throw core::Error({.where = "gradients", .expected = "leaves with requires_grad", .got = "another Var"});
      gradients_[leaf.impl_->slot.get()];
    }
  }
  Tensor gradient(const Var& leaf) { return gradients_.at(leaf.impl_->slot.get()); }

  void run() {
    NoGrad no_grad;
    for (auto& [slot, cotangent] : seeds_) flow(*slot, std::move(cotangent));
    seeds_.clear();
    while (!heap_.empty()) {
      std::shared_ptr<Node> node = heap_.top().second;
      heap_.pop();
      visit(*node);
    }
  }

 private:
  using Item = std::pair<uint64_t, std::shared_ptr<Node>>;
  struct Older {
    bool operator()(const Item& a, const Item& b) const { return a.first < b.first; }
  };

  // How often each leaf with hooks will receive a gradient, so that its hook runs right after the last one.
  void count_leaf_uses(const std::shared_ptr<Slot>& root) {
    std::vector<Slot*> stack{root.get()};
    while (!stack.empty()) {
      Slot* slot = stack.back();
      stack.pop_back();
      Node* node = slot->node.get();
      if (!node) {
        if (!slot->hooks.empty()) ++uses_[slot];
      } else if (seen_.insert(node).second) {
        for (const auto& in : node->inputs)
          if (in) stack.push_back(in.get());
      }
    }
  }

  void flow(Slot& to, Tensor grad) {
    const auto& node = to.node;
    if (!node) return accumulate_leaf(to, std::move(grad));
    if (!node->backward)
      throw core::Error({.where = std::string("backward through ") + node->name,
                         .expected = "a graph not used before",
                         .got = "a freed one",
                         .remedy = "compute the forward again, or sum the losses first"});
    auto [it, fresh] = waiting_.try_emplace(node.get());
    if (fresh) {
      it->second.resize(node->outputs.size());
      heap_.push({node->order, node});
    }
    if (grad) add(it->second[size_t(to.output)], std::move(grad));
  }

  static void add(Tensor& sum, Tensor grad) {
    if (!sum) {
      sum = std::move(grad);
      return;
    }
    if (!sum.is_sole_owner()) sum = sum.clone();  // another edge still reads this tensor
    core::axpy(1.0, grad.contiguous(), sum);
  }

  void accumulate_leaf(Slot& leaf, Tensor grad) {
    if (apart_) {
      auto mine = gradients_.find(&leaf);
      if (grad && mine != gradients_.end()) add(mine->second, grad.to(leaf.dtype));
      return;
    }
    if (grad) {
      bool half = leaf.dtype == DType::bf16 || leaf.dtype == DType::f16;
      if (leaf.grad)
        add(leaf.grad, std::move(grad));
      else
        leaf.grad = half ? grad.to(DType::f32).contiguous() : grad.contiguous();
    }
    if (auto it = uses_.find(&leaf); it != uses_.end() && --it->second == 0)
      for (const auto& hook : leaf.hooks) hook(leaf.grad);
  }

  void visit(Node& node) {
    Tensors grads = std::move(waiting_.at(&node));
    waiting_.erase(&node);
    bool any = std::any_of(grads.begin(), grads.end(), [](const Tensor& t) { return t.defined(); });
    Tensors input_grads(node.inputs.size());
    if (any) {
      for (size_t i = 0; i < grads.size(); ++i)
        if (!grads[i] && node.materialize)
          grads[i] = Tensor::zeros(node.outputs[i].shape, node.outputs[i].dtype, node.outputs[i].device);
      input_grads = node.backward(grads);
    }
    grads.clear();
    node.backward = nullptr;  // frees what the op saved
    auto inputs = std::move(node.inputs);
    node.inputs.clear();
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i]) continue;
      if (any && !(input_grads.at(i) && input_grads[i].shape() == inputs[i]->shape))
        throw core::Error({.where = std::string(node.name) + " backward",
                           .expected = "a gradient " + inputs[i]->shape.str() + " for input " + std::to_string(i),
                           .got = input_grads[i] ? input_grads[i].shape().str() : "none"});
      flow(*inputs[i], std::move(input_grads[i]));
    }
  }

  std::vector<std::pair<std::shared_ptr<Slot>, Tensor>> seeds_;
  std::priority_queue<Item, std::vector<Item>, Older> heap_;
  std::unordered_map<Node*, Tensors> waiting_;
  std::unordered_set<Node*> seen_;
  std::unordered_map<Slot*, int> uses_;
  bool apart_ = false;
  std::unordered_map<Slot*, Tensor> gradients_;
};

Tensors gradients(const Var& output, const std::vector<Var>& leaves, const Tensor& cotangent) {
  Backward pass;
  pass.keep_apart(leaves);
  pass.seed(output, cotangent);
  pass.run();
  Tensors result;
  for (const Var& leaf : leaves) result.push_back(pass.gradient(leaf));
  return result;
}

void backward(const std::vector<Var>& outputs, const Tensors& cotangents) {
  Backward pass;
  for (size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].requires_grad()) pass.seed(outputs[i], cotangents.at(i));
  pass.run();
}

void Var::backward(const Tensor& cotangent) const {
  Backward pass;
  pass.seed(*this, cotangent);
  pass.run();
}

void Var::backward() const {
  if (value().numel() != 1)
    throw core::Error({.where = "backward", .expected = "one element, or a cotangent", .got = shape().str()});
  backward(Tensor::full(shape(), 1.0, dtype(), device()));
}

}  // namespace basis::autograd

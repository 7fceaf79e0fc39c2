// Module: a named tree of parameters. A module declares its parameters and children in its constructor; paths such as
// "layers/0/attention/q/weight" name them in checkpoints, logs and configs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/var.h"
#include "core/rng.h"

namespace basis::models {

using autograd::Var;
using core::Device;
using core::DType;
using core::Shape;
using core::Tensor;

// How a parameter starts: constant, counting from 0, or normal with mean 0.
struct Init {
  enum class Kind { zeros, ones, count, normal } kind = Kind::zeros;
  double std = 0;
  bool late = false;  // a checkpoint may lack it, from before the model had it: it starts here then
  static Init late_zeros() { return {Kind::zeros, 0, true}; }
  static Init zeros() { return {Kind::zeros}; }
  static Init ones() { return {Kind::ones}; }
  static Init count() { return {Kind::count}; }
  static Init normal(double std) { return {Kind::normal, std}; }
};

// How far a parameter moves beside others: factors on its learning rate and on what weight decay takes of it. 1 as
// drawn. A change of basis rescales the factors of a product, and with them how far a step moves the product.
struct Pace {
  double rate = 1, decay = 1;
};

struct Parameter {
  std::string path;
  Var var;  // shares its value with the module's own
  Init init;
  bool buffer = false;  // saved with the model but never trained: whole numbers in f32, whatever the model's dtype
  std::shared_ptr<Pace> pace = std::make_shared<Pace>();  // the module's own
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;  // children are known by address
  Module& operator=(const Module&) = delete;

  // Every parameter and buffer below this module once, in declaration order; a tied parameter under its first path.
  std::vector<Parameter> parameters() const;
  int64_t parameter_count() const;  // without buffers

  // Creates the values on `device` (f32, or f64). Each parameter draws from its own Philox stream, named by its path,
  // so its start does not depend on what else the model holds.
  void initialize(uint64_t seed, Device device, DType dtype = DType::f32);

 protected:
  // Declares a parameter; its value comes with initialize() or from a checkpoint.
  Var& parameter(Var& member, std::string name, const Shape& shape, Init init);
  // Declares a buffer: an order of channels and the like, 0, 1, 2, ... unless a checkpoint says otherwise.
  Var& buffer(Var& member, std::string name, const Shape& shape);
  void child(std::string name, Module& module) { children_.emplace_back(std::move(name), &module); }

 private:
  struct Entry {
    std::string name;
    Var* var;
    Init init;
    bool buffer = false;
    std::shared_ptr<Pace> pace = std::make_shared<Pace>();
  };
  void collect(const std::string& prefix, std::vector<Parameter>& out) const;

  std::vector<Entry> parameters_;
  std::vector<std::pair<std::string, Module*>> children_;
};

}  // namespace basis::models

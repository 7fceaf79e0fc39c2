// Tensor: a typed, strided view of a block of memory on one device. Copying a Tensor shares the memory; `clone` copies
// it. Tensors know nothing of gradients (autograd/var.h does).
#pragma once

#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace basis::core {

class Tensor {
 public:
  Tensor() = default;  // undefined: no memory, "not given"

  static Tensor empty(const Shape& shape, DType dtype, Device device = cpu);  // unspecified contents
  static Tensor full(const Shape& shape, double value, DType dtype, Device device = cpu);
  static Tensor zeros(const Shape& shape, DType dtype, Device device = cpu) { return full(shape, 0, dtype, device); }
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape, Device device = cpu);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, Device device = cpu) {
    return from(std::span<const T>(values), shape, device);
  }
  Tensor empty_like() const { return empty(shape_, dtype_, device()); }

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  int64_t size(int axis) const { return shape_[shape_.axis(axis)]; }
  int64_t stride(int axis) const { return strides_[shape_.axis(axis)]; }  // elements
  int dim() const { return shape_.dim(); }
  int64_t numel() const { return numel_; }
  int64_t bytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device : cpu; }
  bool is_contiguous() const;
  bool shares_memory_with(const Tensor& other) const { return storage_ && storage_ == other.storage_; }
  // True when no other tensor can see this memory, so that it may be written in place.
  bool is_sole_owner() const { return storage_.use_count() == 1; }

  // Pointer to the first element. Throws core::Error when T is not the dtype.
  template <class T>
  T* data() const {
    require_dtype(dtype_of<T>());
    return static_cast<T*>(raw());
  }
  void* raw() const { return storage_ ? static_cast<char*>(storage_->data) + offset_ : nullptr; }

  // Views share memory.
  Tensor view(const Shape& shape) const;                     // same elements, contiguous tensors only
  Tensor slice(int axis, int64_t begin, int64_t end) const;  // [begin, end) along one axis
  Tensor transpose(int a, int b) const;

  // Copies.
  Tensor contiguous() const;                   // itself when already contiguous
  Tensor clone() const;                        // always a new contiguous block
  Tensor to(Device device) const;              // itself when already there
  Tensor to(DType dtype) const;                // itself when already of that type; rounds to nearest even
  void copy_from(const Tensor& source) const;  // same shape; converts dtype and device
  template <class T>
  std::vector<T> to_vector() const;  // contiguous order, converted to T, on the host
  double item() const;               // the value of a one-element tensor; waits for the device

 private:
  void require_dtype(DType wanted) const;

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // bytes
  int64_t numel_ = 0;
  Shape shape_;
  std::array<int64_t, Shape::kMaxDim> strides_{};
  DType dtype_ = DType::f32;
};

template <class T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape, Device device) {
  if (int64_t(values.size()) != shape.numel())
    throw Error({.where = "Tensor::from",
                 .expected = std::to_string(shape.numel()) + " values for " + shape.str(),
                 .got = std::to_string(values.size())});
  Tensor host = empty(shape, dtype_of<T>());
  std::copy(values.begin(), values.end(), host.template data<T>());
  return host.to(device);
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  Tensor host = to(cpu).contiguous();
  if (device().is_cuda()) synchronize(device());
  std::vector<T> values(size_t(host.numel()));
  dispatch(host.dtype(), [&]<class From>(std::type_identity<From>) {
    const From* p = host.template data<From>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = convert<T>(p[i]);
  });
  return values;
}

}  // namespace basis::core

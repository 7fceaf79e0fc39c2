#include "core/tensor.h"

#include "core/basic/basic.h"

namespace basis::core {

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.numel_ = shape.numel();
  int64_t stride = 1;
  for (int i = shape.dim() - 1; i >= 0; --i) {
    t.strides_[i] = stride;
    stride *= shape[i];
  }
  t.storage_ = allocate(device, size_t(t.bytes()));
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  fill(t, value);
  return t;
}

bool Tensor::is_contiguous() const {
  int64_t stride = 1;
  for (int i = shape_.dim() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != stride) return false;
    stride *= shape_[i];
  }
  return true;
}

void Tensor::require_dtype(DType wanted) const {
  if (!defined() || dtype_ != wanted)
    throw Error({.where = "tensor",
                 .expected = std::string(name_of(wanted)),
                 .got = defined() ? std::string(name_of(dtype_)) : "an undefined tensor"});
}

Tensor Tensor::view(const Shape& shape) const {
  if (shape.numel() != numel_ || !is_contiguous())
    throw Error({.where = "view",
                 .expected = "a contiguous tensor of " + std::to_string(shape.numel()) + " elements",
                 .got = shape_.str() + (is_contiguous() ? "" : ", not contiguous"),
                 .remedy = "call contiguous() first"});
  Tensor t = *this;
  t.shape_ = shape;
  int64_t stride = 1;
  for (int i = shape.dim() - 1; i >= 0; --i) {
    t.strides_[i] = stride;
    stride *= shape[i];
  }
  return t;
}

Tensor Tensor::slice(int axis, int64_t begin, int64_t end) const {
  axis = shape_.axis(axis);
  if (begin < 0 || begin > end || end > shape_[axis])
    throw Error({.where = "slice",
                 .expected = "0 <= begin <= end <= " + std::to_string(shape_[axis]),
                 .got = std::to_string(begin) + ", " + std::to_string(end)});
  Tensor t = *this;
  t.offset_ += begin * strides_[axis] * size_of(dtype_);
  t.shape_[axis] = end - begin;
  t.numel_ = t.shape_.numel();
  return t;
}

Tensor Tensor::transpose(int a, int b) const {
  a = shape_.axis(a), b = shape_.axis(b);
  Tensor t = *this;
  std::swap(t.shape_[a], t.shape_[b]);
  std::swap(t.strides_[a], t.strides_[b]);
  return t;
}

Tensor Tensor::contiguous() const { return !defined() || is_contiguous() ? *this : clone(); }

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device target) const {
  if (!defined() || target == device()) return *this;
  Tensor t = empty(shape_, dtype_, target);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType target) const {
  if (!defined() || target == dtype_) return *this;
  Tensor t = empty(shape_, target, device());
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) const {
  if (!(shape_ == source.shape_)) throw Error({.where = "copy", .expected = shape_.str(), .got = source.shape_.str()});
  if (numel_ == 0) return;
  if (device() == source.device() && (dtype_ != source.dtype_ || !is_contiguous() || !source.is_contiguous()))
    return copy_strided(source, *this);
  if (dtype_ != source.dtype_) return copy_from(source.to(dtype_));
  if (!source.is_contiguous()) return copy_from(source.clone());
  if (!is_contiguous()) return copy_from(source.to(device()));
  const Backend& b = backend(device().is_cuda() ? DeviceType::cuda : source.device().type);
  b.copy(device(), raw(), source.device(), source.raw(), size_t(bytes()));
}

double Tensor::item() const {
  if (numel_ != 1) throw Error({.where = "item", .expected = "one element", .got = shape_.str()});
  return to_vector<double>()[0];
}

}  // namespace basis::core

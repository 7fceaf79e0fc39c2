// Views and strides: what shares memory, what copies, and what is refused.
#include "core/tensor.h"

#include <gtest/gtest.h>

#include <numeric>

namespace basis::core {
namespace {

Tensor counting(const Shape& shape, DType dtype = DType::f32) {
  std::vector<double> v(size_t(shape.numel()));
  std::iota(v.begin(), v.end(), 0);
  return Tensor::from(v, shape).to(dtype);
}

using Values = std::vector<int>;

TEST(Shape, CountsAndRefuses) {
  EXPECT_EQ(Shape().numel(), 1);
  EXPECT_EQ((Shape{3, 0, 2}).numel(), 0);
  EXPECT_EQ((Shape{2, 3}).axis(-1), 1);
  EXPECT_EQ((Shape{2, 3}).str(), "[2, 3]");
  EXPECT_FALSE((Shape{2, 3} == Shape{2, 3, 1}));
  EXPECT_THROW((Shape{2, 3}).axis(2), Error);
  EXPECT_THROW((Shape{2, 3}).axis(-3), Error);
  EXPECT_THROW((Shape{-1}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1}), Error);
  EXPECT_THROW((Shape{int64_t{1} << 31, int64_t{1} << 31}).numel(), Error);
  EXPECT_EQ((Shape{0, int64_t{1} << 62}).numel(), 0);
}

TEST(Tensor, ViewsShareMemory) {
  Tensor x = counting({2, 3, 4});
  Tensor v = x.view({6, 4}), s = x.slice(1, 1, 3), t = x.transpose(0, -1);
  for (const Tensor& y : {v, s, t}) EXPECT_TRUE(y.shares_memory_with(x));
  x.data<float>()[4] = 100;  // x[0, 1, 0]
  EXPECT_EQ(v.to_vector<int>()[4], 100);
  EXPECT_EQ(s.to_vector<int>()[0], 100);
  EXPECT_EQ(t.to_vector<int>()[2], 100);  // t[0, 1, 0]
  EXPECT_FALSE(x.is_sole_owner());
  EXPECT_FALSE(x.clone().shares_memory_with(x));
  EXPECT_TRUE(x.clone().is_sole_owner());
}

TEST(Tensor, StridesOfViews) {
  Tensor x = counting({2, 3, 4});
  EXPECT_EQ(x.stride(0), 12);
  EXPECT_EQ(x.stride(-1), 1);
  Tensor t = x.transpose(1, 2);
  EXPECT_EQ(t.shape(), (Shape{2, 4, 3}));
  EXPECT_EQ(t.stride(1), 1);
  EXPECT_EQ(t.stride(2), 4);
  EXPECT_FALSE(t.is_contiguous());
  EXPECT_TRUE(x.slice(0, 1, 2).is_contiguous());
  EXPECT_FALSE(x.slice(2, 1, 2).is_contiguous());
  EXPECT_TRUE(x.slice(0, 0, 1).transpose(0, 1).is_contiguous()) << "the stride of an axis of 1 does not matter";
  EXPECT_TRUE(x.contiguous().shares_memory_with(x));
  EXPECT_FALSE(t.contiguous().shares_memory_with(x));
}

TEST(Tensor, StridedValuesInOrder) {
  Tensor x = counting({2, 3});
  EXPECT_EQ(x.transpose(0, 1).to_vector<int>(), (Values{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(x.slice(1, 1, 3).to_vector<int>(), (Values{1, 2, 4, 5}));
  EXPECT_EQ(x.slice(1, 1, 3).transpose(0, 1).slice(0, 1, 2).to_vector<int>(), (Values{2, 5}));
  EXPECT_EQ(x.slice(0, 1, 1).numel(), 0);
  EXPECT_EQ(x.slice(1, 2, 3).clone().view({2}).to_vector<int>(), (Values{2, 5}));
}

TEST(Tensor, EveryPermutationOfFourAxesCopiesRight) {
  Tensor x = counting({2, 3, 4, 5});
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 4; ++b) {
      Tensor t = x.transpose(a, b).slice(2, 1, 2), c = t.contiguous();
      EXPECT_TRUE(c.is_contiguous());
      const float *p = c.data<float>(), *q = t.data<float>();
      for (int64_t i = 0; i < t.size(0); ++i)
        for (int64_t j = 0; j < t.size(1); ++j)
          for (int64_t k = 0; k < t.size(2); ++k)
            for (int64_t l = 0; l < t.size(3); ++l)
              ASSERT_EQ(*p++, q[i * t.stride(0) + j * t.stride(1) + k * t.stride(2) + l * t.stride(3)]);
    }
}

TEST(Tensor, CopyIntoAViewLeavesTheRest) {
  Tensor x = Tensor::zeros({3, 4}, DType::f32);
  x.slice(1, 1, 3).copy_from(counting({2, 3}, DType::f64).transpose(0, 1));  // other strides and another dtype
  EXPECT_EQ(x.to_vector<int>(), (Values{0, 0, 3, 0, 0, 1, 4, 0, 0, 2, 5, 0}));
}

TEST(Tensor, Conversions) {
  for (int from = 0; from < kDTypes; ++from)
    for (int to = 0; to < kDTypes; ++to) {
      Tensor x = counting({2, 5}, DType(from)).transpose(0, 1).to(DType(to));
      EXPECT_EQ(x.dtype(), DType(to));
      EXPECT_EQ(x.to_vector<int>(), (Values{0, 5, 1, 6, 2, 7, 3, 8, 4, 9}));
    }
  Tensor x = counting({3});
  EXPECT_TRUE(x.to(DType::f32).shares_memory_with(x));
  EXPECT_TRUE(x.to(cpu).shares_memory_with(x));
}

TEST(Tensor, ScalarsAndEmptyTensors) {
  EXPECT_EQ(Tensor::full({}, 3, DType::bf16).item(), 3);
  Tensor none = Tensor::zeros({0, 4}, DType::f32);
  EXPECT_TRUE(none.to_vector<float>().empty());
  EXPECT_NO_THROW(none.transpose(0, 1).contiguous());
  EXPECT_EQ(none.view({4, 0}).numel(), 0);
  EXPECT_THROW(none.item(), Error);
  EXPECT_FALSE(Tensor().defined());
  EXPECT_EQ(Tensor().raw(), nullptr);
}

TEST(Tensor, Refusals) {
  Tensor x = counting({2, 3});
  EXPECT_THROW(x.view({5}), Error);
  EXPECT_THROW(x.transpose(0, 1).view({6}), Error);
  EXPECT_THROW(x.slice(0, 1, 3), Error);
  EXPECT_THROW(x.slice(0, 2, 1), Error);
  EXPECT_THROW(x.slice(1, -1, 1), Error);
  EXPECT_THROW(x.transpose(0, 2), Error);
  EXPECT_THROW(x.data<double>(), Error);
  EXPECT_THROW(Tensor().data<float>(), Error);
  EXPECT_THROW(x.copy_from(counting({3, 2})), Error);
  EXPECT_THROW(x.item(), Error);
  EXPECT_THROW(Tensor::from(std::vector<float>{1, 2}, {3}), Error);
}

}  // namespace
}  // namespace basis::core

// Every generated check of every registered op.
#include <gtest/gtest.h>

#include "autograd/gradcheck.h"

namespace basis::autograd {
namespace {

class EveryOp : public testing::TestWithParam<std::string> {
 protected:
  void check(Device device, DType dtype) {
    for (const OpEntry& op : registry()) {
      if (op.name != GetParam()) continue;
      for (const CheckResult& r : check_op(op, {.device = device, .dtype = dtype}))
        EXPECT_TRUE(r.pass) << r.op << " / " << r.sample << " / " << r.check << ": " << r.max_error << " > "
                            << r.tolerance << " " << r.note;
    }
  }
};

TEST_P(EveryOp, CpuF64) { check(core::cpu, DType::f64); }
TEST_P(EveryOp, CpuF32) { check(core::cpu, DType::f32); }

TEST_P(EveryOp, Cuda) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) check(core::cuda(), dtype);
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const OpEntry& op : registry()) all.push_back(op.name);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryOp, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

TEST(Registry, HoldsTheOps) { EXPECT_GE(registry().size(), 20u); }

}  // namespace
}  // namespace basis::autograd

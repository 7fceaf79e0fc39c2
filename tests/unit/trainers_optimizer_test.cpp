// One launch for all parameters gives the bits of one launch for each; copies follow their parameters.
#include <gtest/gtest.h>

#include "models/layers.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {
namespace {

using core::DType;

class Optimizers : public testing::TestWithParam<core::DeviceType> {
 protected:
  void SetUp() override {
    if (GetParam() == core::DeviceType::cuda && core::device_count(GetParam()) == 0) GTEST_SKIP() << "no GPU";
    device_ = GetParam() == core::DeviceType::cuda ? core::cuda() : core::cpu;
  }

  Tensor random(int64_t n, uint64_t stream, double low = -1) const {
    core::HostRandom r(11, stream);
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = float(low + (1 - low) * r.uniform());
    return Tensor::from(v, {n}, device_);
  }

  // Parameters of awkward sizes; one is a slice that begins at no multiple of 16 bytes.
  std::vector<Update> updates() const {
    std::vector<Update> all;
    uint64_t stream = 0;
    for (int64_t n : {1, 7, 4096, 4097, 50000, 16385, 3}) {
      auto tensor = [&](double low) {
        Tensor t = random(n + 1, ++stream, low);
        return n == 4097 ? t.slice(0, 1, n + 1) : t.slice(0, 0, n);
      };
      Update u{tensor(-1), tensor(-1), tensor(-1), tensor(0), Tensor::empty({n}, DType::bf16, device_), 1, 0};
      u.lr_scale = 1 + 0.25 * double(stream), u.weight_decay = n > 100 ? 0.1 : 0;
      all.push_back(u);
    }
    return all;
  }

  Tensor scalars() const {
    std::vector<double> s(kScalars, 0.0);
    s[kLearningRate] = 1e-3, s[kMaxNorm] = 1, s[kLossScale] = 1, s[kTime] = 6;
    return Tensor::from(s, {kScalars}, device_);
  }

  core::Device device_ = core::cpu;
};

TEST_P(Optimizers, OneLaunchForAllGivesTheBitsOfOneForEach) {
  Hyper hyper{0.9, 0.95, 1e-8, 0.9};
  for (bool adamw : {true, false}) {
    auto together = updates(), apart = updates();
    Tensor all = scalars(), each = scalars();
    Tensors gradients;
    for (const Update& u : together) gradients.push_back(u.gradient);
    add_squared_norms(device_.type, DType::f32, gradients, all);
    for (const Tensor& g : gradients) add_squared_norms(device_.type, DType::f32, Tensors{g}, each);
    EXPECT_EQ(all.to_vector<double>(), each.to_vector<double>());
    EXPECT_GT(all.to_vector<double>()[kSquaredNorm], 1000);
    for (const Tensor& s : {all, each}) finish_norm(device_.type, DType::f64, s, false);
    const auto& update = adamw ? adamw_update : sgd_update;
    update(device_.type, DType::f32, hyper, all, together);
    for (const Update& u : apart) update(device_.type, DType::f32, hyper, each, std::vector<Update>{u});
    auto before = updates();
    for (size_t i = 0; i < together.size(); ++i) {
      auto values = together[i].parameter.to_vector<float>();
      EXPECT_EQ(values, apart[i].parameter.to_vector<float>()) << i;
      EXPECT_EQ(together[i].first.to_vector<float>(), apart[i].first.to_vector<float>()) << i;
      EXPECT_EQ(together[i].second.to_vector<float>(), apart[i].second.to_vector<float>()) << i;
      EXPECT_NE(values, before[i].parameter.to_vector<float>()) << i;
      EXPECT_EQ(together[i].copy.to_vector<float>(), together[i].parameter.to(DType::bf16).to_vector<float>()) << i;
    }
  }
}

TEST_P(Optimizers, MoreParametersThanOneLaunchCarries) {
  std::vector<Update> many;
  Tensors gradients;
  for (int64_t i = 0; i < 1000; ++i) {
    Tensor ones = Tensor::full({i % 5}, 1, DType::f32, device_);
    many.push_back({Tensor::zeros({i % 5}, DType::f32, device_), ones, ones.clone(), ones.clone(), {}, 1, 0});
    gradients.push_back(ones);
  }
  Tensor s = scalars();
  add_squared_norms(device_.type, DType::f32, gradients, s);
  EXPECT_EQ(s.to_vector<double>()[kSquaredNorm], 2000);
  finish_norm(device_.type, DType::f64, s, false);
  adamw_update(device_.type, DType::f32, Hyper{0.9, 0.95, 1e-8, 0}, s, many);
  for (const Update& u : many)
    for (float x : u.parameter.to_vector<float>()) EXPECT_LT(x, 0);
}

TEST_P(Optimizers, AStepWithCopiesIsAStepWithCasts) {
  auto train = [&](bool copies) {
    models::Linear layer(8, 8, true, 0.5);
    layer.initialize(5, device_);
    configs::OptimizerConfig config;
    Optimizer optimizer(config, layer.parameters(), false);
    if (copies) optimizer.keep_copies(DType::bf16);
    models::Pass pass{.training = true, .compute = DType::bf16, .copies = &optimizer.copies()};
    autograd::Var x(random(32, 77).view({4, 8}).to(DType::bf16));
    for (int i = 0; i < 3; ++i) {
      layer(pass, x).backward(random(32, uint64_t(80 + i)).view({4, 8}).to(DType::bf16));
      optimizer.step(1e-2, 1.0);
    }
    return layer.weight.value().to_vector<float>();
  };
  if (device_.is_cpu()) GTEST_SKIP() << "no 16-bit products on the CPU";
  EXPECT_EQ(train(true), train(false));
}

INSTANTIATE_TEST_SUITE_P(Cpu, Optimizers, testing::Values(core::DeviceType::cpu));
INSTANTIATE_TEST_SUITE_P(Cuda, Optimizers, testing::Values(core::DeviceType::cuda));

}  // namespace
}  // namespace basis::trainers

// Attention on CUDA against naive attention on the CPU in f64, on the same rounded inputs: every option, at lengths
// that end inside tiles and head sizes on both sides of what the tensor-core kernels pad to.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/fused_attention/fused_attention.h"
#include "ops/naive_attention/naive_attention.h"

namespace basis::ops {
namespace {

using core::HostRandom;

struct Setting {
  std::string name;
  Shape q, k;
  int64_t dv = 0;  // 0: as D
  AttentionOptions options;
};

std::vector<Setting> settings() {
  AttentionOptions causal, full, window, sink, full_window, dropped, padded, all;
  full.causal = full_window.causal = padded.causal = false;
  window.window = 37;
  sink.window = 50, sink.sink = 70;
  full_window.window = 45, full_window.sink = 3;
  dropped.dropout = 0.3, dropped.seed = 5, dropped.stream = 9;
  padded.key_lengths = Tensor::from(std::vector<int32_t>{0, 130}, {2});
  all = dropped, all.window = 100, all.sink = 20, all.key_lengths = Tensor::from(std::vector<int32_t>{90, 170}, {2});
  std::vector<Setting> list;
  for (int64_t d : {8, 16, 32, 40, 64, 80, 96, 128, 136, 256})
    list.push_back({"causal, D " + std::to_string(d), {1, 200, 2, d}, {1, 200, 2, d}, 0, causal});
  for (int64_t d : {64, 128, 256})
    for (const auto& [name, options] :
         std::vector<std::pair<std::string, AttentionOptions>>{{"full", full},
                                                               {"window", window},
                                                               {"sink", sink},
                                                               {"full window", full_window},
                                                               {"dropped", dropped},
                                                               {"padded", padded},
                                                               {"all", all}})
      list.push_back({name + ", D " + std::to_string(d), {2, 150, 2, d}, {2, 201, 1, d}, 0, options});
  for (int64_t d : {64, 128, 256})  // rows of a multiple of four keys share random numbers between lanes
    list.push_back({"dropped in fours, D " + std::to_string(d), {2, 150, 2, d}, {2, 204, 1, d}, 0, dropped});
  list.push_back({"odd D", {1, 70, 2, 13}, {1, 70, 2, 13}, 0, causal});
  list.push_back({"wide v", {1, 70, 2, 64}, {1, 90, 2, 64}, 96, causal});
  list.push_back({"narrow v", {1, 140, 2, 128}, {1, 190, 1, 128}, 64, all});
  list.back().options.key_lengths = {};
  list.push_back({"one query", {2, 1, 8, 64}, {2, 300, 2, 64}, 0, all});
  list.push_back({"rows that see nothing", {2, 65, 2, 64}, {2, 65, 2, 64}, 0, window});
  list.back().options.key_lengths = Tensor::from(std::vector<int32_t>{5, 65}, {2});
  list.push_back({"longer", {1, 700, 2, 64}, {1, 700, 1, 64}, 0, causal});
  list.push_back({"longer, D 128", {1, 700, 2, 128}, {1, 700, 1, 128}, 0, full});
  return list;
}

Tensor random(const Shape& shape, uint64_t stream, DType dtype) {
  HostRandom r(7, stream);
  std::vector<double> v(size_t(shape.numel()));
  for (double& x : v) x = r.normal();
  return Tensor::from(v, shape).to(dtype);
}

using Attention = Var (*)(const Var&, const Var&, const Var&, const AttentionOptions&);

// o, dq, dk, dv.
std::vector<std::vector<double>> run(Attention attention, const Setting& s, DType rounded, DType dtype, Device device) {
  Shape v_shape{s.k[0], s.k[1], s.k[2], s.dv ? s.dv : s.k[3]}, o_shape{s.q[0], s.q[1], s.q[2], v_shape[3]};
  std::vector<Var> in;
  for (const Shape& shape : {s.q, s.k, v_shape})
    in.emplace_back(random(shape, in.size(), rounded).to(dtype).to(device), true);
  Var o = attention(in[0], in[1], in[2], s.options.to(device));
  o.backward(random(o_shape, 9, rounded).to(dtype).to(device));
  std::vector<std::vector<double>> all{o.value().to(core::cpu).to(DType::f64).to_vector<double>()};
  for (const Var& x : in) all.push_back(x.grad().to(core::cpu).to(DType::f64).to_vector<double>());
  return all;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::sqrt(difference) / (size > 0 ? std::sqrt(size) : 1);
}

class CudaAttention : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
    engine_ = attention_engine();
    set_attention_engine(nullptr);  // our own kernels
  }
  void TearDown() override { set_attention_engine(engine_); }
  const AttentionEngine* engine_ = nullptr;
};

// Each result rounds once to its dtype, and probabilities and their gradients once more on the way.
TEST_P(CudaAttention, MatchesTheReference) {
  const char* names[] = {"o", "dq", "dk", "dv"};
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    auto expected = run(naive_attention, GetParam(), dtype, DType::f64, core::cpu);
    double tolerance = dtype == DType::f32 ? 2e-6 : 2 * core::epsilon(dtype);
    for (Attention attention : {Attention(naive_attention), Attention(fused_attention)}) {
      auto got = run(attention, GetParam(), dtype, dtype, core::cuda());
      for (size_t i = 0; i < got.size(); ++i)
        EXPECT_LE(distance(got[i], expected[i]), tolerance)
            << name_of(dtype) << " " << names[i] << (attention == Attention(fused_attention) ? " fused" : " naive");
      EXPECT_EQ(got, run(attention, GetParam(), dtype, dtype, core::cuda())) << name_of(dtype) << ": other bits";
    }
  }
}

std::string test_name(const testing::TestParamInfo<Setting>& info) {
  std::string name;
  for (char c : info.param.name) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Settings, CudaAttention, testing::ValuesIn(settings()), test_name);

TEST(CudaAttentionErrors, HeadsOver256) {
  if (core::device_count(core::DeviceType::cuda) == 0) GTEST_SKIP() << "no GPU";
  Var x(Tensor::zeros({1, 4, 1, 264}, DType::f32, core::cuda()));
  EXPECT_THROW(fused_attention(x, x, x), core::Error);
}

}  // namespace
}  // namespace basis::ops

// Fused attention through cuDNN's graph API, for the calls it is best at: bf16 and f16, causal or full, as many queries
// as keys, no window, padding or dropout. Forward gives the same log-sum-exp as our kernels, so either may run
// backward.
//
// On Hopper cuDNN's backward adds dq up with atomics, or, when asked to be deterministic, through a T x S workspace. So
// it is taken only where bits may differ between runs (core::deterministic() is off), and for whole tiles of queries:
// at 64 and 200 tokens it was seen to read beyond its tensors, which a recorded step does not survive.
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include <map>
#include <mutex>

#include "core/cuda/check.h"
#include "core/stream.h"
#include "ops/fused_attention/fused_attention.h"

namespace basis::ops {
namespace {

namespace fe = cudnn_frontend;
using Attributes = std::shared_ptr<fe::graph::Tensor_attributes>;

enum Uid : int64_t { kQ = 1, kK, kV, kO, kLse, kDout, kDq, kDk, kDv };
using Pointers = std::unordered_map<fe::graph::Tensor_attributes::uid_t, void*>;

void check(cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw core::Error(
        {.where = "cudnn", .expected = std::string(call) + " to succeed", .got = cudnnGetErrorString(status)});
}

// A built graph; `graph` is null when cuDNN has no kernel for the call.
struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;
  int64_t choice = -1, workspace = 0;  // which of its plans, -1: its own choice; bytes
};

struct Library {
  std::mutex mutex;
  std::map<int, cudnnHandle_t> handles;  // by device
  std::map<std::vector<int64_t>, Plan> plans;
};
Library& library() {
  static auto* l = new Library;  // leaked: the driver may be gone before static destruction
  return *l;
}

// [B,T,H,D] as cuDNN's [B,H,T,D].
Attributes add(fe::graph::Graph& graph, Uid uid, const Tensor& t) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_uid(uid)
                          .set_dim({t.size(0), t.size(2), t.size(1), t.size(3)})
                          .set_stride({t.stride(0), t.stride(2), t.stride(1), t.stride(3)}));
}
Attributes add_lse(fe::graph::Graph& graph, const Tensor& lse) {
  int64_t h = lse.size(1), t = lse.size(2);
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_uid(kLse)
                          .set_dim({lse.size(0), h, t, 1})
                          .set_stride({h * t, t, 1, 1})
                          .set_data_type(fe::DataType_t::FLOAT));
}
void mark_output(const Attributes& a, Uid uid, const Tensor& t) {
  a->set_output(true)
      .set_uid(uid)
      .set_dim({t.size(0), t.size(2), t.size(1), t.size(3)})
      .set_stride({t.stride(0), t.stride(2), t.stride(1), t.stride(3)});
}

std::shared_ptr<fe::graph::Graph> new_graph(DType dtype) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

bool execute(cudnnHandle_t handle, const Plan& p, Pointers& pointers, core::Device device) {
  Tensor workspace = Tensor::empty({(p.workspace + 3) / 4}, DType::f32, device);
  return (p.choice < 0 ? p.graph->execute(handle, pointers, workspace.raw())
                       : p.graph->execute_plan_at_index(handle, pointers, workspace.raw(), p.choice))
      .is_good();
}

// cuDNN's own choice; or, where other bits are allowed and it can be timed, the fastest of its plans by three runs,
// which write the results over and over: its choice took 176 us forward for GPT-2's heads on an H200, another one 154.
// For whole tiles of queries only, as backward.
Plan build(cudnnHandle_t handle, std::shared_ptr<fe::graph::Graph> graph, Pointers& pointers, core::Device device,
           cudaStream_t stream, int64_t queries) {
  bool tune = !core::deterministic() && !capturing(stream) && queries % 128 == 0;
  auto policy = tune ? fe::BuildPlanPolicy_t::ALL : fe::BuildPlanPolicy_t::HEURISTICS_CHOICE;
  if (graph->validate().is_bad() || graph->build_operation_graph(handle).is_bad() ||
      graph->create_execution_plans({fe::HeurMode_t::A}).is_bad() || graph->check_support().is_bad() ||
      graph->build_plans(policy).is_bad())
    return {};
  Plan best{graph};
  if (!tune) return graph->get_workspace_size(best.workspace).is_good() ? best : Plan{};
  best.graph = nullptr;
  double best_seconds = INFINITY;
  for (int64_t i = 0; i < graph->get_execution_plan_count(); ++i) {
    Plan p{graph, i};
    if (graph->get_workspace_size_plan_at_index(i, p.workspace).is_bad()) continue;
    bool ran = execute(handle, p, pointers, device);
    double seconds = core::time_on(device, [&] {
      for (int k = 0; k < 3; ++k) ran = ran && execute(handle, p, pointers, device);
    });
    if (ran && seconds < best_seconds) best = p, best_seconds = seconds;
  }
  return best;
}

bool takes(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o) {
  auto aligned = [](const Tensor& t) {
    bool ok = reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 && t.stride(3) == 1 && t.size(3) % 8 == 0;
    for (int axis = 0; axis < 3; ++axis) ok = ok && t.stride(axis) % 8 == 0;
    return ok;
  };
  return (q.dtype() == DType::bf16 || q.dtype() == DType::f16) && q.size(1) == k.size(1) && o.window == 0 &&
         !o.key_lengths && o.dropout == 0 && aligned(q) && aligned(k) && aligned(v);
}

std::vector<int64_t> key_of(bool backward, const AttentionShape& n, bool causal,
                            std::initializer_list<Tensor> tensors) {
  std::vector<int64_t> key{backward, causal, n.B, n.T, n.S, n.H, n.Hkv, n.D, n.Dv, std::bit_cast<int64_t>(n.scale)};
  for (const Tensor& t : tensors) {
    key.push_back(int64_t(t.dtype()) * 64 + t.device().index);
    for (int axis = 0; axis < t.dim(); ++axis) key.push_back(t.stride(axis));
  }
  return key;
}

// Runs the plan of `key`, built by `make` at the first such call. False when cuDNN has none.
template <class Make>
bool run(const std::vector<int64_t>& key, core::Device device, Pointers pointers, int64_t queries, Make make) {
  auto stream = static_cast<cudaStream_t>(core::current_stream(device.index).handle);  // makes the device current
  Library& l = library();
  std::lock_guard lock(l.mutex);
  cudnnHandle_t& handle = l.handles[device.index];
  if (!handle) check(cudnnCreate(&handle), "cudnnCreate");
  check(cudnnSetStream(handle, stream), "cudnnSetStream");
  auto found = l.plans.find(key);
  if (found == l.plans.end())
    found = l.plans.emplace(key, build(handle, make(), pointers, device, stream, queries)).first;
  const Plan& plan = found->second;
  if (!plan.graph) return false;
  if (!execute(handle, plan, pointers, device))
    throw core::Error({.where = "cudnn", .expected = "the attention graph to run"});
  return true;
}

bool forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o, const Tensor& out,
             const Tensor& lse) {
  AttentionShape n = check_attention(q, k, v, o, "fused_attention");
  if (!takes(q, k, v, o)) return false;
  Pointers pointers{{kQ, q.raw()}, {kK, k.raw()}, {kV, v.raw()}, {kO, out.raw()}, {kLse, lse.raw()}};
  return run(key_of(false, n, o.causal, {q, k, v, out}), q.device(), pointers, n.T, [&] {
    auto graph = new_graph(q.dtype());
    auto options = fe::graph::SDPA_attributes().set_generate_stats(true).set_attn_scale(float(n.scale));
    if (o.causal) options.set_causal_mask(true);
    auto [result, stats] = graph->sdpa(add(*graph, kQ, q), add(*graph, kK, k), add(*graph, kV, v), options);
    mark_output(result, kO, out);
    stats->set_output(true).set_uid(kLse).set_data_type(fe::DataType_t::FLOAT);
    return graph;
  });
}

bool backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse, const Tensor& dout,
              const AttentionOptions& a, const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  AttentionShape n = check_attention(q, k, v, a, "fused_attention");
  if (core::deterministic() || n.T % 128 || !takes(q, k, v, a) || !takes(dout, o, v, a)) return false;
  Pointers pointers{{kQ, q.raw()},       {kK, k.raw()},   {kV, v.raw()},   {kO, o.raw()},  {kLse, lse.raw()},
                    {kDout, dout.raw()}, {kDq, dq.raw()}, {kDk, dk.raw()}, {kDv, dv.raw()}};
  return run(key_of(true, n, a.causal, {q, k, v, o, dout, dq, dk, dv}), q.device(), pointers, n.T, [&] {
    auto graph = new_graph(q.dtype());
    auto options = fe::graph::SDPA_backward_attributes().set_attn_scale(float(n.scale));
    if (a.causal) options.set_causal_mask(true);
    auto [gq, gk, gv] =
        graph->sdpa_backward(add(*graph, kQ, q), add(*graph, kK, k), add(*graph, kV, v), add(*graph, kO, o),
                             add(*graph, kDout, dout), add_lse(*graph, lse), options);
    mark_output(gq, kDq, dq), mark_output(gk, kDk, dk), mark_output(gv, kDv, dv);
    return graph;
  });
}

constexpr AttentionEngine cudnn{"cudnn", forward, backward};
[[maybe_unused]] const bool registered = set_attention_engine(&cudnn);

}  // namespace
}  // namespace basis::ops

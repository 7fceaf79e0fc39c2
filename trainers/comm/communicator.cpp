#include "trainers/comm/communicator.h"

#include <fmt/format.h>

#include <cstring>

namespace basis::trainers {
namespace {

class Null : public Communicator {
 public:
  Null() : Communicator(0, 1) {}
  std::string name() const override { return "null"; }
  void all_reduce(const Tensor&, Reduce) override {}
  void reduce_scatter(const Tensor&) override {}
  void all_gather(const Tensor&) override {}
  void broadcast(const Tensor&, int) override {}
  void barrier() override {}
};

template <class T>
void combine_as(const void* from, void* to, int64_t n, Reduce op) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  if (op == Reduce::sum)
    for (int64_t i = 0; i < n; ++i) y[i] += x[i];
  else
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] > y[i] || x[i] != x[i] ? x[i] : y[i];  // a NaN stays
}

}  // namespace

CommunicatorPtr null_communicator() { return std::make_shared<Null>(); }

std::vector<double> Communicator::agree(std::vector<double> values, Reduce op) {
  if (size() == 1) return values;
  Tensor t = Tensor::from(values, {int64_t(values.size())});
  host().all_reduce(t, op);
  return t.to_vector<double>();
}

std::string Communicator::broadcast_text(const std::string& text, int root) {
  if (size() == 1) return text;
  int64_t length = int64_t(agree({rank() == root ? double(text.size()) : 0.0}, Reduce::sum)[0]);
  Tensor bytes = Tensor::zeros({(length + 3) / 4}, core::DType::i32);
  if (length == 0) return "";
  if (rank() == root) std::memcpy(bytes.raw(), text.data(), text.size());
  host().broadcast(bytes, root);
  return std::string(static_cast<const char*>(bytes.raw()), size_t(length));
}

std::string list_absent(const std::vector<char>& here) {
  std::string list;
  int count = 0;
  for (size_t r = 0; r < here.size(); ++r)
    if (!here[r]) list += fmt::format("{}{}", count++ ? ", " : "", r);
  return count ? (count > 1 ? "ranks " : "rank ") + list : "";
}

void throw_rank_lost(int self, const std::string& operation, const std::string& who, const std::string& what) {
  throw core::Error({.where = fmt::format("rank {}, {}", self, operation),
                     .expected = "every rank to take part",
                     .got = who + " " + what,
                     .remedy = "start the run again: it goes on from its newest checkpoint",
                     .code = core::ExitCode::rank_lost});
}

void combine(const void* x, void* y, int64_t n, core::DType dtype, Reduce op) {
  if (dtype == core::DType::f32) return combine_as<float>(x, y, n, op);
  if (dtype == core::DType::f64) return combine_as<double>(x, y, n, op);
  if (dtype == core::DType::i32) return combine_as<int32_t>(x, y, n, op);
  throw core::Error(
      {.where = "all_reduce", .expected = "f32, f64 or i32 on the CPU", .got = std::string(name_of(dtype))});
}

#if !defined(BASIS_HAS_MPI)
CommunicatorPtr mpi_communicator(double) {
  throw core::Error({.where = "dist.backend: mpi",
                     .expected = "a build with MPI",
                     .got = "one without",
                     .remedy = "install libopenmpi-dev and build again",
                     .code = core::ExitCode::usage});
}
#endif
#if !defined(BASIS_HAS_NCCL)
CommunicatorPtr nccl_communicator(CommunicatorPtr, core::Device, double) {
  throw core::Error({.where = "dist.backend: nccl",
                     .expected = "a build with NCCL",
                     .got = "one without",
                     .remedy = "install libnccl-dev and build again, or run.device: cpu",
                     .code = core::ExitCode::usage});
}
#endif

}  // namespace basis::trainers

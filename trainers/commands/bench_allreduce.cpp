// basis bench allreduce: how fast gradients can be summed over the ranks this was started with.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "trainers/comm/launch.h"
#include "trainers/commands/bench_allreduce.h"

namespace basis::trainers {

// Bus bandwidth as nccl-tests count it: 2 (n - 1) / n times the bytes over the seconds, what each link of a ring
// carries.
void bench_allreduce(const AllReduceBench& o) {
  configs::Config c;
  c.run.device = o.device, c.dist.backend = o.backend, c.dist.timeout_s = 60;
  CommunicatorPtr comm = join(c, find_launch());
  core::Device device = comm->name() == "nccl" ? core::cuda() : core::cpu;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (int64_t bytes : o.bytes) {
    Tensor x = Tensor::zeros({std::max<int64_t>(1, bytes / 4)}, core::DType::f32, device);
    auto calls = [&](int64_t n) {
      for (int64_t i = 0; i < n; ++i) comm->all_reduce(x);
      comm->wait();
      core::synchronize(device);
    };
    calls(3);
    comm->barrier();
    auto start = std::chrono::steady_clock::now();
    calls(o.repeats);
    double own = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / double(o.repeats);
    double seconds = comm->agree({own}, Reduce::max)[0];
    double rate = double(x.bytes()) / seconds * 1e-9, ranks = comm->size();
    rows.push_back({{"bytes", x.bytes()},
                    {"ms", seconds * 1e3},
                    {"algorithm_gb_per_s", rate},
                    {"bus_gb_per_s", rate * 2 * (ranks - 1) / ranks}});
  }
  if (!comm->is_first()) return;
  if (o.json) {
    nlohmann::ordered_json all{
        {"bench", "allreduce"}, {"backend", comm->name()}, {"ranks", comm->size()}, {"dtype", "f32"}, {"rows", rows}};
    return fmt::print("{}\n", all.dump(1));
  }
  fmt::print("all_reduce, f32, {} ranks through {}; means of {} calls, slowest rank\n", comm->size(), comm->name(),
             o.repeats);
  fmt::print("{:>12} {:>10} {:>12} {:>12}\n", "bytes", "ms", "GB/s", "bus GB/s");
  for (const auto& r : rows)
    fmt::print("{:>12} {:>10.3f} {:>12.2f} {:>12.2f}\n", r["bytes"].get<int64_t>(), r["ms"].get<double>(),
               r["algorithm_gb_per_s"].get<double>(), r["bus_gb_per_s"].get<double>());
}

}  // namespace basis::trainers

#include "trainers/commands/bench_bd.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "ops/bd_linear/bd_linear.h"
#include "ops/linear/linear.h"
#include "trainers/commands/bench_timing.h"

namespace basis::trainers {
namespace {

using autograd::Var;
using Json = nlohmann::ordered_json;

struct Projection {
  int64_t rows, d, heads, head_dim;
};

Json entry(const char* name, const Timing& t, const Timing& dense) {
  return {{"name", name},
          {"forward_ms", t.forward * 1e3},
          {"forward_backward_ms", t.both * 1e3},
          {"forward_ratio", dense.forward / t.forward},
          {"forward_backward_ratio", dense.both / t.both}};
}

Json measure(const Projection& p, int64_t repeats, core::Device device, core::DType dtype) {
  int64_t n = p.heads * p.head_dim;
  Var x = random_var({p.rows, p.d}, dtype, device, 1), w = random_var({n, p.d}, dtype, device, 2);
  Var c = random_var({n, p.d - p.head_dim}, dtype, device, 3);
  Timing dense = time_op(device, repeats, {x, w}, [&] { return ops::linear(x, w); });
  Json rows = Json::array({entry("dense", dense, dense)});
  for (bool own : {true, false}) {
    if (!own && device.is_cpu()) break;  // the only path there
    ops::bd_path = own ? ops::BdPath::automatic : ops::BdPath::gemm;
    Timing t = time_op(device, repeats, {x, c}, [&] { return ops::bd_linear(x, c, {.head_dim = p.head_dim}); });
    rows.push_back(entry(own ? "bd" : "bd, plain products", t, dense));
  }
  ops::bd_path = ops::BdPath::automatic;
  return rows;
}

}  // namespace

void bench_bd(const BdBench& o, core::Device device, core::DType dtype) {
  std::vector<Projection> shapes{{256, 512, 16, 128}, {1024, 768, 12, 64}};
  if (device.is_cuda())
    shapes = {{16384, 512, 128, 128}, {65536, 512, 128, 128}, {16384, 512, 16, 128},
              {32768, 768, 12, 64},   {32768, 1024, 16, 64},  {16384, 2048, 16, 128}};
  Json all = Json::array();
  if (!o.json)
    fmt::print("BD projection on {}/{}; medians of {}, ms and ratio to dense\n{:<26}{:<20}{:>20}{:>22}\n",
               name_of(device), name_of(dtype), o.repeats, "rows x d, heads x dh (ideal)", "", "forward",
               "forward + backward");
  for (const Projection& p : shapes) {
    double ideal = double(p.d) / double(p.d - p.head_dim);
    Json rows = measure(p, o.repeats, device, dtype);
    all.push_back({{"rows", p.rows},
                   {"d", p.d},
                   {"heads", p.heads},
                   {"head_dim", p.head_dim},
                   {"ideal", ideal},
                   {"times", rows}});
    if (o.json) continue;
    std::string label = fmt::format("{}x{}, {}x{} ({:.3f})", p.rows, p.d, p.heads, p.head_dim, ideal);
    for (const Json& r : rows) {
      fmt::print("{:<28}{:<20}{:>11.4f} {:>6.3f}x {:>13.4f} {:>6.3f}x\n", label, r["name"].get<std::string>(),
                 r["forward_ms"].get<double>(), r["forward_ratio"].get<double>(),
                 r["forward_backward_ms"].get<double>(), r["forward_backward_ratio"].get<double>());
      label.clear();
    }
  }
  if (o.json)
    fmt::print("{}\n",
               Json{{"bench", "bd"}, {"device", name_of(device)}, {"dtype", name_of(dtype)}, {"shapes", all}}.dump(1));
}

}  // namespace basis::trainers

#include "trainers/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"

namespace basis::trainers {
namespace {

using core::Tensor;

// Logits of the last of `tokens`, which continue what the cache holds.
std::vector<float> next_logits(const models::Model& model, models::Pass& pass, const std::vector<int32_t>& tokens,
                               core::Device device) {
  Tensor ids = Tensor::from(tokens, {1, int64_t(tokens.size())}, device);
  Tensor logits = model.logits(pass, ids).value();  // [1,T,V]
  pass.cache->length += int64_t(tokens.size());
  return logits.slice(1, logits.size(1) - 1, logits.size(1)).to_vector<float>();
}

}  // namespace

int32_t sample_token(const std::vector<float>& logits, const GenerateOptions& o, double uniform) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  auto likelier = [&](int32_t a, int32_t b) {
    return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b;
  };
  if (o.temperature == 0) return *std::min_element(order.begin(), order.end(), likelier);
  std::sort(order.begin(), order.end(), likelier);
  if (o.top_k > 0) order.resize(std::min(order.size(), size_t(o.top_k)));
  std::vector<double> mass(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i)
    total += mass[i] = std::exp((double(logits[size_t(order[i])]) - double(logits[size_t(order[0])])) / o.temperature);
  size_t kept = 0;
  double held = 0;
  while (kept < mass.size() && (kept == 0 || held < o.top_p * total)) held += mass[kept++];
  double target = uniform * held;
  for (size_t i = 0; i < kept; ++i)
    if ((target -= mass[i]) <= 0) return order[i];
  return order[kept - 1];
}

std::vector<int32_t> generate(const models::Model& model, const std::vector<int32_t>& prompt, const GenerateOptions& o,
                              core::DType compute, const std::function<bool(int32_t)>& on_token) {
  autograd::NoGrad no_grad;
  if (prompt.empty())
    throw core::Error({.where = "generate",
                       .expected = "a prompt of at least one token",
                       .got = "an empty one",
                       .code = core::ExitCode::usage});
  if (!std::isfinite(o.temperature) || o.temperature < 0 || !(o.top_p > 0 && o.top_p <= 1))
    throw core::Error({.where = "generate",
                       .expected = "a temperature of at least 0 and a top-p in (0, 1]",
                       .got = std::to_string(o.temperature) + " and " + std::to_string(o.top_p),
                       .code = core::ExitCode::usage});
  core::Device device = model.parameters().at(0).var.device();
  int64_t context = model.config().max_seq_len;
  models::KeyValueCache cache;
  auto restart = [&] { cache.layers.assign(size_t(model.config().n_layer), {}), cache.length = 0; };
  restart();
  models::Pass pass{.compute = compute, .cache = &cache};

  std::vector<int32_t> all = prompt;
  auto tail = [&](int64_t n) {
    return std::vector<int32_t>(all.end() - std::min<int64_t>(n, int64_t(all.size())), all.end());
  };
  std::vector<int32_t> pending = tail(context);
  core::HostRandom random(o.seed, 0x67656e);  // "gen"
  std::vector<int32_t> made;
  for (int64_t i = 0; i < o.tokens; ++i) {
    if (cache.length + int64_t(pending.size()) > context) {
      restart();
      pending = tail(std::max<int64_t>(1, context / 2));
    }
    int32_t token = sample_token(next_logits(model, pass, pending, device), o, random.uniform());
    made.push_back(token);
    all.push_back(token);
    pending = {token};
    if (on_token && !on_token(token)) break;
  }
  return made;
}

}  // namespace basis::trainers

#include "trainers/hf/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "core/gemm/gemm.h"
#include "core/log.h"
#include "trainers/data/files.h"
#include "trainers/data/shard.h"

namespace basis::trainers::hf {
namespace {

using core::DType;
using core::Tensor;
using models::Var;

constexpr int64_t kTokensOfAPass = 2048;

// Sums over the rows seen, of one input that several layers may read.
struct Sums {
  const void* first_weight;  // the layer whose calls are counted
  Tensor sum, squares;       // f64
  int64_t rows = 0;

  void add(const Var& input) {
    int64_t n = input.value().shape().back(), count = input.value().numel() / n;
    Tensor x = input.value().contiguous().view({count, n}), product = Tensor::empty({n, n}, x.dtype());
    core::matmul(x, true, x, false, product);
    Tensor wide = product.to(DType::f64), values = x.to(DType::f64);
    double *total = squares.data<double>(), *mean = sum.data<double>();
    for (int64_t i = 0; i < n * n; ++i) total[i] += wide.data<double>()[i];
    for (int64_t r = 0; r < count; ++r)
      for (int64_t i = 0; i < n; ++i) mean[i] += values.data<double>()[r * n + i];
    rows += count;
  }
  InputMoments moments() const {
    for (const Tensor& t : {sum, squares})
      for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] /= double(rows);
    return {sum, squares};
  }
};

class Moments {
 public:
  void see(const Var& weight, const Var& input) {
    const void* key = weight.value().raw();
    auto [it, is_new] = entry_of_.try_emplace(key, entries_.size());
    if (is_new && last_ && last_.raw() == input.value().raw()) it->second = entry_of_.at(last_weight_);
    if (it->second == entries_.size()) {
      int64_t n = input.value().shape().back();
      entries_.push_back({key, Tensor::zeros({n}, DType::f64), Tensor::zeros({n, n}, DType::f64)});
    }
    Sums& sums = entries_[it->second];
    if (sums.first_weight == key) sums.add(input);
    last_ = input.value(), last_weight_ = key;
  }
  Calibration result(const models::Model& model) const {
    std::vector<InputMoments> all;
    for (const Sums& s : entries_) all.push_back(s.moments());
    Calibration c;
    for (const models::Parameter& p : model.parameters())
      if (auto it = entry_of_.find(p.var.value().raw()); it != entry_of_.end()) c.emplace(p.path, all[it->second]);
    return c;
  }

 private:
  std::vector<Sums> entries_;
  std::unordered_map<const void*, size_t> entry_of_;  // by weight
  Tensor last_;                                       // held, so that its address is not another's
  const void* last_weight_ = nullptr;
};

std::vector<int32_t> first_tokens(const TokenizerPtr& tokenizer, const std::filesystem::path& text, int64_t tokens,
                                  int64_t vocab_size) {
  if (is_shard(text)) {
    auto source = open_source(text, {.vocab_size = vocab_size, .tokenizer = tokenizer});
    std::vector<int32_t> ids(size_t(std::min(tokens, source->size())));
    source->read(0, int64_t(ids.size()), ids.data());
    return ids;
  }
  if (!tokenizer)
    throw core::Error({.where = "--calibration",
                       .expected = "a source with a tokenizer, or a token shard",
                       .got = text.string(),
                       .remedy = "leave it out: plain low rank",
                       .code = core::ExitCode::usage});
  std::vector<uint32_t> ids = tokenizer->encode(read_file(text).substr(0, size_t(tokens) * 16));
  return {ids.begin(), ids.end()};
}

}  // namespace

Calibration calibrate(const models::Model& model, const TokenizerPtr& tokenizer, const std::filesystem::path& text,
                      int64_t tokens) {
  int64_t length = model.config().max_seq_len, batch = std::max<int64_t>(1, kTokensOfAPass / length);
  std::vector<int32_t> ids = first_tokens(tokenizer, text, tokens, model.config().vocab_size);
  int64_t windows = std::min<int64_t>(tokens, int64_t(ids.size())) / length;
  if (windows < 1)
    throw bad_file(text, fmt::format("at least {} tokens to calibrate on", length), fmt::format("{}", ids.size()));
  Moments moments;
  models::Observer observe = [&](const Var& weight, const Var& input) { moments.see(weight, input); };
  models::Pass pass{.compute = model.parameters().at(0).var.dtype(), .observe = &observe};
  autograd::NoGrad no_grad;
  for (int64_t w = 0; w < windows; w += batch) {
    int64_t count = std::min(batch, windows - w);
    std::vector<int32_t> part(ids.begin() + w * length, ids.begin() + (w + count) * length);
    model.logits(pass, Tensor::from(part, {count, length}));
  }
  core::log_info("calibrated on {} tokens of {}", windows * length, text.string());
  return moments.result(model);
}

}  // namespace basis::trainers::hf

// Synthetic tasks that show what an attention can do: copying, induction, associative recall.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "trainers/data/dataset.h"
#include "trainers/data/streams.h"

namespace basis::trainers {
namespace {

int64_t uniform(core::HostRandom& random, int64_t begin, int64_t end) {
  uint64_t word = (uint64_t{random.bits()} << 32) | random.bits();
  return begin + int64_t((static_cast<unsigned __int128>(word) * uint64_t(end - begin)) >> 64);
}

void check(bool good, std::string expected, std::string got) {
  if (good) return;
  throw core::Error({.where = "synthetic task",
                     .expected = std::move(expected),
                     .got = std::move(got),
                     .code = core::ExitCode::usage});
}

class Synthetic : public Dataset {
 public:
  explicit Synthetic(const SyntheticOptions& o)
      : Dataset(SampleOrder(o.seed, o.samples, o.global_batch, false), o.seq_len), o_(o) {
    check(o.vocab_size >= 2, "vocab_size >= 2", std::to_string(o.vocab_size));
    check(o.seq_len >= 2, "seq_len >= 2", std::to_string(o.seq_len));
    if (o.task == SyntheticTask::induction) check(o.seq_len >= 4, "seq_len >= 4", std::to_string(o.seq_len));
    if (o.task != SyntheticTask::mqar) return;
    check(o.pairs >= 1 && o.pairs <= o.seq_len / 4, fmt::format("pairs in [1, {}]", o.seq_len / 4),
          std::to_string(o.pairs));
    check(o.pairs <= o.vocab_size / 2 - 1, fmt::format("vocab_size >= {}", 2 * (o.pairs + 1)),
          std::to_string(o.vocab_size));
    check(o.power > 0, "power > 0", fmt::format("{}", o.power));
  }
  std::string describe() const override {
    constexpr const char* names[] = {"copy", "induction", "mqar"};
    return fmt::format("{}: vocabulary {}, length {}", names[int(o_.task)], o_.vocab_size, seq_len());
  }

 protected:
  void sample(const Draw& draw, int32_t* inputs, int32_t* targets) const override {
    uint64_t number = uint64_t(o_.first_sample + draw.index);
    core::HostRandom random(o_.seed, stream(Stream::synthetic, number));
    std::fill(inputs, inputs + seq_len(), 0);
    std::fill(targets, targets + seq_len(), kIgnore);
    switch (o_.task) {
      case SyntheticTask::copy:
        return copy(random, inputs, targets);
      case SyntheticTask::induction:
        return induction(random, inputs, targets);
      case SyntheticTask::mqar:
        return recall(random, number, inputs, targets);
    }
  }

 private:
  // x_0 .. x_{L-1} 0 x_0 .. x_{L-2}: position L + i is to predict x_i.
  void copy(core::HostRandom& random, int32_t* inputs, int32_t* targets) const {
    int64_t length = seq_len() / 2;
    for (int64_t i = 0; i < length; ++i) {
      auto token = int32_t(uniform(random, 1, o_.vocab_size));
      inputs[i] = targets[length + i] = token;
      if (length + 1 + i < seq_len()) inputs[length + 1 + i] = token;
    }
  }

  void induction(core::HostRandom& random, int32_t* inputs, int32_t* targets) const {
    int64_t last = seq_len() - 1, trigger = uniform(random, 0, last - 1);
    for (int64_t t = 0; t < last; ++t) inputs[t] = int32_t(uniform(random, 1, o_.vocab_size));
    inputs[trigger] = inputs[last] = 0;
    targets[last] = inputs[trigger + 1];
  }

  // Keys without replacement, values with; queries take distinct even places behind the pairs, drawn without
  // replacement with weight x^(power - 1) (exponential clocks: the smallest -log(u) / weight win).
  void recall(core::HostRandom& random, uint64_t number, int32_t* inputs, int32_t* targets) const {
    int64_t half = o_.vocab_size / 2, context = 2 * o_.pairs, places = (seq_len() - context) / 2;
    Permutation keys((uint64_t{random.bits()} << 32) | random.bits(), number, half - 1);
    std::vector<std::pair<double, int64_t>> clocks(static_cast<size_t>(places));
    for (int64_t x = 0; x < places; ++x)
      clocks[size_t(x)] = {-std::log(random.uniform()) * std::pow(double(x + 1), 1 - o_.power), x};
    std::partial_sort(clocks.begin(), clocks.begin() + o_.pairs, clocks.end());
    for (int64_t i = 0; i < o_.pairs; ++i) {
      auto key = int32_t(1 + keys(i)), value = int32_t(uniform(random, half, o_.vocab_size));
      inputs[2 * i] = key, inputs[2 * i + 1] = value;
      int64_t at = context + 2 * clocks[size_t(i)].second;
      inputs[at] = key, targets[at] = value;
    }
  }

  SyntheticOptions o_;
};

}  // namespace

SyntheticTask parse_synthetic(const std::string& name) {
  if (name == "copy") return SyntheticTask::copy;
  if (name == "induction") return SyntheticTask::induction;
  if (name == "mqar") return SyntheticTask::mqar;
  throw core::Error(
      {.where = "synthetic task", .expected = "copy, induction or mqar", .got = name, .code = core::ExitCode::usage});
}

DatasetPtr synthetic(const SyntheticOptions& options) { return std::make_shared<Synthetic>(options); }

}  // namespace basis::trainers

// Windows of a token source: next-token prediction and BERT's masking.
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"
#include "trainers/data/dataset.h"
#include "trainers/data/streams.h"

namespace basis::trainers {
namespace {

[[noreturn]] void usage(std::string where, std::string expected, std::string got, std::string remedy = "") {
  throw core::Error({.where = std::move(where),
                     .expected = std::move(expected),
                     .got = std::move(got),
                     .remedy = std::move(remedy),
                     .code = core::ExitCode::usage});
}

// A uniform number in [0, n) from two words: the bias is below n / 2^64.
int64_t below(int64_t n, uint32_t high, uint32_t low) {
  return int64_t((static_cast<unsigned __int128>((uint64_t{high} << 32) | low) * uint64_t(n)) >> 64);
}

// Where the window of each draw starts. A window has `length` tokens and blocks begin every `stride` tokens.
class Windows {
 public:
  Windows(int64_t tokens, int64_t length, int64_t stride, const TextOptions& o)
      : tokens_(tokens), length_(length), stride_(stride), seed_(o.seed), order_(o.order) {
    blocks_ = (tokens - length) / stride + 1;
    // One block fewer leaves room to move all of them by up to a block and more.
    if (order_ == WindowOrder::shuffled && blocks_ > 1) --blocks_;
  }
  int64_t count() const { return blocks_; }
  int64_t start(const Draw& draw) const {
    if (order_ == WindowOrder::random_offsets)
      return uniform(tokens_ - length_ + 1, stream(Stream::offset, 0), uint64_t(draw.number));
    int64_t slack = tokens_ - length_ - (blocks_ - 1) * stride_;
    bool moves = order_ == WindowOrder::shuffled;
    return draw.index * stride_ + (moves ? uniform(slack + 1, stream(Stream::phase, 0), uint64_t(draw.epoch)) : 0);
  }

 private:
  int64_t uniform(int64_t n, uint64_t stream, uint64_t offset) const {
    core::Philox4 r = core::philox(seed_, stream, offset);
    return below(n, r.x, r.y);
  }
  int64_t tokens_, length_, stride_, blocks_;
  uint64_t seed_;
  WindowOrder order_;
};

Windows windows(const TokenSource& source, int64_t length, int64_t stride, const TextOptions& o) {
  if (o.seq_len < 1) usage("data.seq_len", "at least 1", std::to_string(o.seq_len));
  if (source.size() < length)
    throw core::Error({.where = source.name(),
                       .expected = fmt::format("at least {} tokens for seq_len {}", length, o.seq_len),
                       .got = std::to_string(source.size()),
                       .remedy = "lower data.seq_len or use more text",
                       .code = core::ExitCode::bad_file});
  return Windows(source.size(), length, stride, o);
}

SampleOrder order_of(const Windows& w, const TextOptions& o) {
  return SampleOrder(o.seed, w.count(), o.global_batch, o.order == WindowOrder::shuffled);
}

class LanguageModel : public Dataset {
 public:
  LanguageModel(TokenSourcePtr source, Windows windows, const TextOptions& o)
      : Dataset(order_of(windows, o), o.seq_len), source_(std::move(source)), windows_(windows) {}
  std::string describe() const override {
    return fmt::format("{}: {} tokens, {} windows of {}", source_->name(), source_->size(), samples(), seq_len());
  }

 protected:
  void sample(const Draw& draw, int32_t* inputs, int32_t* targets) const override {
    int64_t start = windows_.start(draw), n = seq_len();
    source_->read(start, n, inputs);
    std::copy(inputs + 1, inputs + n, targets);
    source_->read(start + n, 1, targets + n - 1);
  }

 private:
  TokenSourcePtr source_;
  Windows windows_;
};

class MaskedLanguageModel : public Dataset {
 public:
  MaskedLanguageModel(TokenSourcePtr source, Windows windows, const TextOptions& o, MaskOptions m)
      : Dataset(order_of(windows, o), o.seq_len),
        source_(std::move(source)),
        windows_(windows),
        masks_(std::move(m)),
        seed_(o.seed) {
    if (!(masks_.probability > 0 && masks_.probability <= 1))
      usage("masking probability", "in (0, 1]", fmt::format("{}", masks_.probability));
    special_ = masks_.never;
    for (std::optional<int32_t> id : {std::optional(masks_.mask_id), masks_.cls, masks_.sep})
      if (id) special_.push_back(*id);
    for (int32_t id : special_)
      if (id < 0 || id >= masks_.vocab_size)
        usage("masked language modelling", fmt::format("special ids in [0, {})", masks_.vocab_size),
              std::to_string(id));
    std::sort(special_.begin(), special_.end());
    special_.erase(std::unique(special_.begin(), special_.end()), special_.end());
    if (int64_t(special_.size()) >= masks_.vocab_size)
      usage("masked language modelling", "a vocabulary with ordinary ids", "special ids only");
  }
  std::string describe() const override {
    return fmt::format("{}: {} tokens, {} windows of {}, {}% masked", source_->name(), source_->size(), samples(),
                       seq_len(), 100 * masks_.probability);
  }

 protected:
  void sample(const Draw& draw, int32_t* inputs, int32_t* targets) const override {
    int64_t n = seq_len(), front = masks_.cls.has_value(), back = masks_.sep.has_value();
    source_->read(windows_.start(draw), n - front - back, inputs + front);
    if (masks_.cls) inputs[0] = *masks_.cls;
    if (masks_.sep) inputs[n - 1] = *masks_.sep;
    std::fill(targets, targets + n, kIgnore);
    // The position with the smallest draw is chosen even when no other is.
    uint32_t threshold = uint32_t(std::min(masks_.probability * 0x1p32, 0x1p32 - 1)), least = UINT32_MAX;
    int64_t least_at = -1;
    bool any = false;
    for (int64_t t = 0; t < n; ++t) {
      if (is_special(inputs[t])) continue;
      core::Philox4 r = draws(draw, t);
      if (least_at < 0 || r.x < least) least = r.x, least_at = t;
      if (r.x < threshold) mask(r, inputs[t], targets[t]), any = true;
    }
    if (!any && least_at >= 0) mask(draws(draw, least_at), inputs[least_at], targets[least_at]);
  }

 private:
  core::Philox4 draws(const Draw& draw, int64_t t) const {
    return core::philox(seed_, stream(Stream::mask, uint64_t(draw.number)), uint64_t(t));
  }
  bool is_special(int32_t id) const { return std::binary_search(special_.begin(), special_.end(), id); }
  void mask(const core::Philox4& r, int32_t& input, int32_t& target) const {
    target = input;
    float u = core::uniform_from_bits(r.y);
    if (u < 0.8f)
      input = masks_.mask_id;
    else if (u < 0.9f)
      input = ordinary(below(masks_.vocab_size - int64_t(special_.size()), r.z, r.w));
  }
  // The k-th id that is not special.
  int32_t ordinary(int64_t k) const {
    for (int32_t id : special_) k += id <= k;
    return int32_t(k);
  }
  TokenSourcePtr source_;
  Windows windows_;
  MaskOptions masks_;
  std::vector<int32_t> special_;  // sorted
  uint64_t seed_;
};

}  // namespace

WindowOrder parse_window_order(const std::string& shuffle) {
  if (shuffle == "true") return WindowOrder::shuffled;
  if (shuffle == "false") return WindowOrder::sequential;
  if (shuffle == "random_offsets") return WindowOrder::random_offsets;
  usage("data.shuffle", "true, false or random_offsets", shuffle);
}

DatasetPtr language_model(TokenSourcePtr source, const TextOptions& o) {
  Windows w = windows(*source, o.seq_len + 1, o.seq_len + o.disjoint, o);
  return std::make_shared<LanguageModel>(std::move(source), w, o);
}

DatasetPtr masked_language_model(TokenSourcePtr source, const TextOptions& o, const MaskOptions& masks) {
  int64_t content = o.seq_len - masks.cls.has_value() - masks.sep.has_value();
  if (content < 1) usage("data.seq_len", "room for text beside [CLS] and [SEP]", std::to_string(o.seq_len));
  Windows w = windows(*source, content, content, o);
  return std::make_shared<MaskedLanguageModel>(std::move(source), w, o, masks);
}

}  // namespace basis::trainers

#include "trainers/data/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "trainers/data/files.h"
#include "trainers/data/shard.h"

namespace basis::trainers {
namespace {

void check_range(const TokenSource& source, int64_t offset, int64_t n) {
  if (offset < 0 || n < 0 || offset > source.size() || n > source.size() - offset)
    throw bad_file(source.name(), fmt::format("a range within {} tokens", source.size()),
                   fmt::format("[{}, {} + {})", offset, offset, n));
}

// Little-endian tokens of type T at any alignment, widened and checked.
template <class T>
void widen(const std::byte* bytes, int64_t offset, int64_t n, int64_t bound, const TokenSource& source, int32_t* out) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    T token;
    std::memcpy(&token, bytes + (offset + i) * int64_t(sizeof(T)), sizeof(T));
    largest = std::max(largest, uint32_t(token));
    out[i] = int32_t(token);
  }
  if (int64_t(largest) < bound) return;
  int64_t at = 0;
  while (int64_t(uint32_t(out[at])) < bound) ++at;
  throw bad_file(source.name(), fmt::format("token ids below {}", bound),
                 fmt::format("{} at token {}", uint32_t(out[at]), offset + at),
                 "these tokens belong to another vocabulary: set model.vocab_size or use other data");
}

// Tokens at a place of a memory-mapped file.
template <class T>
class MappedSource : public TokenSource {
 public:
  MappedSource(const std::filesystem::path& path, MappedFile file, int64_t byte_offset, int64_t tokens, int64_t bound,
               std::vector<int64_t> doc_offsets)
      : name_(path.string()), file_(std::move(file)), tokens_(tokens), bound_(bound), docs_(std::move(doc_offsets)) {
    int64_t size = int64_t(file_.bytes().size());
    if (byte_offset < 0 || byte_offset > size || tokens > (size - byte_offset) / int64_t(sizeof(T)))
      throw bad_file(path, fmt::format("{} tokens of {} bytes", tokens, sizeof(T)), fmt::format("{} bytes", size),
                     "the file was cut short");
    data_ = file_.bytes().data() + byte_offset;
  }
  int64_t size() const override { return tokens_; }
  void read(int64_t offset, int64_t n, int32_t* out) const override {
    check_range(*this, offset, n);
    widen<T>(data_, offset, n, bound_, *this, out);
  }
  std::vector<int64_t> doc_offsets() const override { return docs_; }
  int64_t vocab_bound() const override { return bound_; }
  std::string name() const override { return name_; }

 private:
  std::string name_;
  MappedFile file_;
  const std::byte* data_;
  int64_t tokens_, bound_;
  std::vector<int64_t> docs_;
};

template <class T>
class MemorySource : public TokenSource {
 public:
  MemorySource(std::span<const uint32_t> tokens, std::string name, int64_t bound)
      : name_(std::move(name)), tokens_(tokens.begin(), tokens.end()), bound_(bound) {}
  int64_t size() const override { return int64_t(tokens_.size()); }
  void read(int64_t offset, int64_t n, int32_t* out) const override {
    check_range(*this, offset, n);
    widen<T>(reinterpret_cast<const std::byte*>(tokens_.data()), offset, n, bound_, *this, out);
  }
  std::vector<int64_t> doc_offsets() const override { return {0}; }
  int64_t vocab_bound() const override { return bound_; }
  std::string name() const override { return name_; }

 private:
  std::string name_;
  std::vector<T> tokens_;
  int64_t bound_;
};

class Concatenation : public TokenSource {
 public:
  explicit Concatenation(std::vector<TokenSourcePtr> parts) : parts_(std::move(parts)) {
    for (const TokenSourcePtr& part : parts_) ends_.push_back(size() + part->size());
  }
  int64_t size() const override { return ends_.empty() ? 0 : ends_.back(); }
  void read(int64_t offset, int64_t n, int32_t* out) const override {
    check_range(*this, offset, n);
    size_t p = size_t(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
    for (; n > 0; ++p) {
      int64_t begin = p == 0 ? 0 : ends_[p - 1], count = std::min(n, ends_[p] - offset);
      parts_[p]->read(offset - begin, count, out);
      offset += count, out += count, n -= count;
    }
  }
  std::vector<int64_t> doc_offsets() const override {
    std::vector<int64_t> all;
    for (size_t p = 0; p < parts_.size(); ++p) {
      std::vector<int64_t> docs = parts_[p]->doc_offsets();
      if (docs.empty()) docs = {0};
      for (int64_t d : docs) all.push_back(d + (p == 0 ? 0 : ends_[p - 1]));
    }
    return all;
  }
  int64_t vocab_bound() const override {
    int64_t bound = 0;
    for (const TokenSourcePtr& part : parts_) bound = std::max(bound, part->vocab_bound());
    return bound;
  }
  std::string name() const override {
    return parts_.size() == 1 ? parts_[0]->name() : fmt::format("{} and {} more", parts_[0]->name(), parts_.size() - 1);
  }

 private:
  std::vector<TokenSourcePtr> parts_;
  std::vector<int64_t> ends_;
};

class Slice : public TokenSource {
 public:
  Slice(TokenSourcePtr source, int64_t begin, int64_t end) : source_(std::move(source)), begin_(begin), end_(end) {
    check_range(*source_, begin, end - begin);
  }
  int64_t size() const override { return end_ - begin_; }
  void read(int64_t offset, int64_t n, int32_t* out) const override {
    check_range(*this, offset, n);
    source_->read(begin_ + offset, n, out);
  }
  std::vector<int64_t> doc_offsets() const override {
    std::vector<int64_t> docs;
    for (int64_t d : source_->doc_offsets())
      if (d < end_ && d > begin_) docs.push_back(d - begin_);
    docs.insert(docs.begin(), 0);
    return docs;
  }
  int64_t vocab_bound() const override { return source_->vocab_bound(); }
  std::string name() const override { return source_->name(); }

 private:
  TokenSourcePtr source_;
  int64_t begin_, end_;
};

int64_t bound_of(const SourceOptions& options, int64_t natural) {
  return options.vocab_size > 0 ? std::min(options.vocab_size, natural) : natural;
}

TokenSourcePtr open_llmc(const std::filesystem::path& path, MappedFile file, bool wide, const SourceOptions& options) {
  constexpr int64_t kHeader = 1024;
  int64_t size = int64_t(file.bytes().size()), width = wide ? 4 : 2;
  if (size < kHeader) throw bad_file(path, "llm.c's header of 1024 bytes", fmt::format("{} bytes", size));
  int32_t header[3];
  std::memcpy(header, file.bytes().data(), sizeof header);
  if (header[1] != (wide ? 7 : 1))
    throw bad_file(path, fmt::format("llm.c data version {}", wide ? 7 : 1), std::to_string(header[1]));
  if (header[2] <= 0 || size != kHeader + header[2] * width)
    throw bad_file(path,
                   fmt::format("{} bytes for the {} tokens of the header", kHeader + header[2] * width, header[2]),
                   fmt::format("{}", size), "the file was cut short or is damaged");
  if (wide)
    return std::make_shared<MappedSource<uint32_t>>(path, std::move(file), kHeader, header[2],
                                                    bound_of(options, INT32_MAX), std::vector<int64_t>{});
  return std::make_shared<MappedSource<uint16_t>>(path, std::move(file), kHeader, header[2], bound_of(options, 65536),
                                                  std::vector<int64_t>{});
}

TokenSourcePtr open_bin(const std::filesystem::path& path, const SourceOptions& options) {
  MappedFile file(path);
  int64_t size = int64_t(file.bytes().size());
  int32_t magic = 0;
  if (size >= 4) std::memcpy(&magic, file.bytes().data(), 4);
  if (magic == 20240520 || magic == 20240801) return open_llmc(path, std::move(file), magic == 20240801, options);
  if (size % 2 != 0) throw bad_file(path, "u16 tokens, an even number of bytes", fmt::format("{} bytes", size));
  return std::make_shared<MappedSource<uint16_t>>(path, std::move(file), 0, size / 2, bound_of(options, 65536),
                                                  std::vector<int64_t>{});
}

TokenSourcePtr open_shard_source(const std::filesystem::path& path, const SourceOptions& options) {
  ShardInfo info = read_shard_info(path);
  if (options.tokenizer != nullptr && info.tokenizer_hash != fmt::format("{:016x}", options.tokenizer->hash()))
    throw bad_file(path, fmt::format("tokens of the tokenizer {:016x}", options.tokenizer->hash()), info.tokenizer_hash,
                   "data.tokenizer=shard takes the file's own; or tokenize the text again");
  int64_t bound = bound_of(options, info.vocab_size);
  MappedFile file(path);
  if (info.type == Element::u16)
    return std::make_shared<MappedSource<uint16_t>>(path, std::move(file), info.file_offset, info.tokens, bound,
                                                    std::move(info.doc_offsets));
  return std::make_shared<MappedSource<uint32_t>>(path, std::move(file), info.file_offset, info.tokens, bound,
                                                  std::move(info.doc_offsets));
}

TokenSourcePtr open_text(const std::filesystem::path& path, const SourceOptions& options) {
  if (options.tokenizer == nullptr)
    throw core::Error({.where = path.string(),
                       .expected = "a tokenizer for text",
                       .got = "none",
                       .remedy = "set data.tokenizer: byte, char or the path of one",
                       .code = core::ExitCode::usage});
  std::string text = read_file(path);
  if (text.empty()) throw bad_file(path, "text", "an empty file");
  std::vector<uint32_t> ids;
  try {
    ids = options.tokenizer->encode(text);
  } catch (const core::Error& e) {
    core::Fault fault = e.fault();
    fault.where = path.string();
    throw core::Error(fault);
  }
  return memory_source(ids, path.string(), bound_of(options, options.tokenizer->vocab_size()));
}

}  // namespace

TokenSourcePtr open_source(const std::filesystem::path& path, const SourceOptions& options) {
  if (std::filesystem::is_regular_file(path) && is_shard(path)) return open_shard_source(path, options);
  if (path.extension() == ".bin") return open_bin(path, options);
  return open_text(path, options);
}

TokenSourcePtr open_sources(std::span<const std::string> patterns, const SourceOptions& options) {
  std::vector<TokenSourcePtr> parts;
  for (const std::filesystem::path& path : expand_paths(patterns)) parts.push_back(open_source(path, options));
  return concatenate(std::move(parts));
}

TokenSourcePtr memory_source(std::span<const uint32_t> tokens, std::string name, int64_t vocab_bound) {
  bool narrow = std::all_of(tokens.begin(), tokens.end(), [](uint32_t t) { return t < 65536; });
  if (narrow) return std::make_shared<MemorySource<uint16_t>>(tokens, std::move(name), vocab_bound);
  return std::make_shared<MemorySource<uint32_t>>(tokens, std::move(name), vocab_bound);
}

TokenSourcePtr concatenate(std::vector<TokenSourcePtr> parts) {
  if (parts.empty()) throw bad_file("data", "at least one file", "none");
  if (parts.size() == 1) return parts[0];
  return std::make_shared<Concatenation>(std::move(parts));
}

TokenSourcePtr slice(TokenSourcePtr source, int64_t begin, int64_t end) {
  return std::make_shared<Slice>(std::move(source), begin, end);
}

std::pair<TokenSourcePtr, TokenSourcePtr> split_tail(const TokenSourcePtr& source, double fraction) {
  int64_t n = source->size(), cut = fraction > 0 && fraction < 1 ? int64_t(double(n) * (1 - fraction)) : 0;
  if (cut <= 0 || cut >= n)
    throw core::Error({.where = source->name(),
                       .expected = fmt::format("a validation fraction that leaves both parts some of the {} tokens", n),
                       .got = fmt::format("{}", fraction),
                       .remedy = "set data.val to a fraction like 0.1, or to paths",
                       .code = core::ExitCode::usage});
  return {slice(source, 0, cut), slice(source, cut, n)};
}

}  // namespace basis::trainers

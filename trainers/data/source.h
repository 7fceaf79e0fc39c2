// Token sources: a long sequence of token ids, wherever it lies. Reading is thread-safe; each id that is read is
// checked against `SourceOptions::vocab_size` on the host, so that no kernel sees one out of range. Unusable files and
// ids are core::Error with ExitCode::bad_file that names the file and the offset.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trainers/data/tokenizer.h"

namespace basis::trainers {

class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual int64_t size() const = 0;  // tokens
  // Copies tokens [offset, offset + n) to out[0, n).
  virtual void read(int64_t offset, int64_t n, int32_t* out) const = 0;
  virtual std::vector<int64_t> doc_offsets()
      const = 0;                            // where documents start, ascending, the first 0; empty: unknown
  virtual int64_t vocab_bound() const = 0;  // every id that `read` returns is below
  virtual std::string name() const = 0;
};

using TokenSourcePtr = std::shared_ptr<const TokenSource>;

struct SourceOptions {
  int64_t vocab_size = 0;            // ids must be below; 0: the bound that the file itself implies
  TokenizerPtr tokenizer = nullptr;  // needed for text; a shard made with another one is refused
};

// One file, told by its content: an HDF5 shard; llm.c .bin (256 int32 of header: magic 20240520 with version 1 and u16
// tokens, or magic 20240801 with version 7 and u32 tokens); any other .bin is nanoGPT's raw u16; else UTF-8 text.
TokenSourcePtr open_source(const std::filesystem::path& path, const SourceOptions& options);

// All files of the patterns (expand_paths), one after the other.
TokenSourcePtr open_sources(std::span<const std::string> patterns, const SourceOptions& options);

TokenSourcePtr memory_source(std::span<const uint32_t> tokens, std::string name, int64_t vocab_bound);
TokenSourcePtr concatenate(std::vector<TokenSourcePtr> parts);            // at least one
TokenSourcePtr slice(TokenSourcePtr source, int64_t begin, int64_t end);  // tokens [begin, end)

// The first int(size * (1 - fraction)) tokens and the rest, as nanoGPT splits; 0 < fraction < 1, neither part empty.
std::pair<TokenSourcePtr, TokenSourcePtr> split_tail(const TokenSourcePtr& source, double fraction);

}  // namespace basis::trainers

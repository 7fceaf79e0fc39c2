// Basis's own token shards: HDF5 with /tokens (u16 or u32), /doc_offsets (u64, starts of documents) and the root
// attributes format, version, vocab_size, tokenizer_hash (16 hexadecimal digits) and tokenizer (its JSON).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "trainers/data/source.h"
#include "trainers/data/tokenizer.h"
#include "trainers/hdf5.h"

namespace basis::trainers {

// Writes a shard under a temporary name and renames it. u16 when the vocabulary fits. Ids are range-checked.
void write_shard(const std::filesystem::path& path, std::span<const uint32_t> tokens,
                 std::span<const uint64_t> doc_offsets, const Tokenizer& tokenizer);

struct ShardInfo {
  Element type;  // u16 or u32
  int64_t tokens, documents, vocab_size, file_offset;
  std::string tokenizer_hash;
  std::vector<int64_t> doc_offsets;
};

// Reads and checks everything but the tokens.
ShardInfo read_shard_info(const std::filesystem::path& path);
bool is_shard(const std::filesystem::path& path);  // by its HDF5 signature or extension
// The tokenizer that made the tokens. Throws core::Error (bad_file) for what is no shard.
TokenizerPtr read_shard_tokenizer(const std::filesystem::path& path);
// Compares the tokens with their checksum: reads the whole file. Throws core::Error (bad_file).
void verify_shard(const std::filesystem::path& path);

}  // namespace basis::trainers

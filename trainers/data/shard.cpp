#include "trainers/data/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "trainers/data/files.h"
#include "trainers/run/files.h"

namespace basis::trainers {
namespace {

constexpr std::string_view kFormat = "basis tokens";

std::string hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

template <class T>
void write_tokens(Hdf5File& file, std::span<const uint32_t> tokens) {
  const int64_t shape[] = {int64_t(tokens.size())};
  if constexpr (std::is_same_v<T, uint32_t>) return file.write<uint32_t>("/tokens", shape, tokens);
  std::vector<T> narrow(tokens.begin(), tokens.end());
  file.write<T>("/tokens", shape, std::span<const T>(narrow));
}

void check_offsets(const std::filesystem::path& path, std::span<const uint64_t> offsets, uint64_t tokens) {
  for (size_t i = 0; i < offsets.size(); ++i)
    if ((i == 0 ? offsets[i] != 0 : offsets[i] < offsets[i - 1]) || offsets[i] > tokens)
      throw bad_file(path, fmt::format("ascending document offsets from 0 to {}", tokens),
                     fmt::format("{} at position {}", offsets[i], i));
}

void write_content(const std::filesystem::path& path, std::span<const uint32_t> tokens,
                   std::span<const uint64_t> doc_offsets, const Tokenizer& tokenizer) {
  Hdf5File file = Hdf5File::create(path);
  file.set("/", "format", kFormat);
  file.set("/", "version", int64_t{1});
  file.set("/", "vocab_size", tokenizer.vocab_size());
  file.set("/", "tokenizer_hash", hex(tokenizer.hash()));
  file.set("/", "tokenizer", tokenizer.serialise());
  if (tokenizer.vocab_size() <= 65536)
    write_tokens<uint16_t>(file, tokens);
  else
    write_tokens<uint32_t>(file, tokens);
  const int64_t documents[] = {int64_t(doc_offsets.size())};
  file.write<uint64_t>("/doc_offsets", documents, doc_offsets);
  file.close();
}

Hdf5File open_shard(const std::filesystem::path& path) {
  Hdf5File file = Hdf5File::open(path);
  if (!file.has_attribute("/", "format") || file.get_string("/", "format") != kFormat)
    throw bad_file(path, "a token shard", "another HDF5 file", "make shards with `basis tokenize`");
  if (int64_t version = file.get_int("/", "version"); version != 1)
    throw bad_file(path, "shard version 1", std::to_string(version), "use a newer basis");
  return file;
}

}  // namespace

void write_shard(const std::filesystem::path& path, std::span<const uint32_t> tokens,
                 std::span<const uint64_t> doc_offsets, const Tokenizer& tokenizer) {
  for (size_t i = 0; i < tokens.size(); ++i)
    if (int64_t(tokens[i]) >= tokenizer.vocab_size())
      throw bad_file(path, fmt::format("ids below {}", tokenizer.vocab_size()),
                     fmt::format("{} at token {}", tokens[i], i));
  check_offsets(path, doc_offsets, tokens.size());
  write_then_replace(path, [&](const auto& temporary) { write_content(temporary, tokens, doc_offsets, tokenizer); });
}

ShardInfo read_shard_info(const std::filesystem::path& path) {
  Hdf5File file = open_shard(path);
  DatasetInfo tokens = file.info("/tokens");
  if ((tokens.type != Element::u16 && tokens.type != Element::u32) || tokens.shape.size() != 1)
    throw bad_file(path, "/tokens of rank 1, u16 or u32",
                   fmt::format("rank {}, {}", tokens.shape.size(), name_of(tokens.type)));
  if (tokens.elements == 0) throw bad_file(path, "tokens", "none");
  if (tokens.file_offset < 0) throw bad_file(path, "contiguous /tokens", "compact storage");
  ShardInfo info{.type = tokens.type, .tokens = tokens.elements, .file_offset = tokens.file_offset};
  info.vocab_size = file.get_int("/", "vocab_size");
  if (info.vocab_size < 1 || info.vocab_size > INT32_MAX)
    throw bad_file(path, "vocab_size in [1, 2^31)", std::to_string(info.vocab_size));
  info.tokenizer_hash = file.get_string("/", "tokenizer_hash");
  std::vector<uint64_t> offsets = file.read<uint64_t>("/doc_offsets");
  check_offsets(path, offsets, uint64_t(info.tokens));
  info.doc_offsets.assign(offsets.begin(), offsets.end());
  info.documents = int64_t(offsets.size());
  return info;
}

bool is_shard(const std::filesystem::path& path) {
  if (path.extension() == ".h5" || path.extension() == ".hdf5") return true;
  char head[8] = {};
  std::ifstream(path, std::ios::binary).read(head, 8);
  return std::string_view(head, 8) == "\x89HDF\r\n\x1a\n";
}

TokenizerPtr read_shard_tokenizer(const std::filesystem::path& path) {
  Hdf5File file = open_shard(path);
  TokenizerPtr tokenizer = parse_tokenizer(file.get_string("/", "tokenizer"), path.string());
  std::string stored = file.get_string("/", "tokenizer_hash");
  if (stored != hex(tokenizer->hash())) throw bad_file(path, "tokenizer hash " + stored, hex(tokenizer->hash()));
  return tokenizer;
}

void verify_shard(const std::filesystem::path& path) {
  Hdf5File file = open_shard(path);
  DatasetInfo info = file.info("/tokens");
  std::vector<std::byte> bytes(size_t(info.bytes));
  file.read("/tokens", info.type, bytes.data(), info.bytes);
}

}  // namespace basis::trainers

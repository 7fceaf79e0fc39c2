#include "trainers/hf/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "trainers/run/files.h"

namespace basis::trainers::hf {
namespace {

using core::DType;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr int64_t kLongestHeader = 100'000'000;  // the format's own limit
constexpr size_t kDeepest = 8;

int64_t width_of(const std::string& dtype, const std::string& where) {
  static const std::map<std::string, int64_t> widths = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
      {"F32", 4},  {"U64", 8}, {"I64", 8}, {"F64", 8},     {"C64", 8}};
  auto it = widths.find(dtype);
  if (it == widths.end()) throw bad_file(where, "a safetensors dtype such as F32 or BF16", "'" + dtype + "'");
  return it->second;
}

std::optional<DType> dtype_of(const std::string& name) {
  static const std::map<std::string, DType> types = {{"F64", DType::f64}, {"F32", DType::f32}, {"BF16", DType::bf16},
                                                     {"F16", DType::f16}, {"I64", DType::i64}, {"I32", DType::i32},
                                                     {"U16", DType::u16}, {"U8", DType::u8},   {"BOOL", DType::u8}};
  auto it = types.find(name);
  return it == types.end() ? std::nullopt : std::optional(it->second);
}

const char* text_of(DType type) {
  constexpr const char* names[core::kDTypes] = {"F64", "F32", "BF16", "F16", "I64", "I32", "U16", "U8"};
  return names[int(type)];
}

// JSON without repeated keys and without deep nesting.
json parse_header(std::string_view text, const std::string& name) {
  std::vector<std::set<std::string>> keys;
  size_t depth = 0;
  auto watch = [&](int, json::parse_event_t event, json& value) {
    using Event = json::parse_event_t;
    if ((event == Event::object_start || event == Event::array_start) && ++depth > kDeepest)
      throw bad_file(name, fmt::format("a header of at most {} levels", kDeepest), "deeper JSON");
    if (event == Event::object_end || event == Event::array_end) --depth;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second)
      throw bad_file(name, "names that occur once", value.dump() + " twice");
    return true;
  };
  try {
    json header = json::parse(text, watch);
    if (!header.is_object()) throw bad_file(name, "a JSON object as header", "other JSON");
    return header;
  } catch (const json::exception& e) {
    throw bad_file(name, "a header of JSON", e.what());
  }
}

int64_t unsigned_number(const json& n, const std::string& where) {
  if (!n.is_number_unsigned() || n.get<uint64_t>() > uint64_t(INT64_MAX))
    throw bad_file(where, "numbers in [0, 2^63)", n.dump());
  return n.get<int64_t>();
}

const json& member(const json& entry, const char* key, const std::string& where) {
  if (!entry.is_object() || !entry.contains(key))
    throw bad_file(where, "{\"dtype\", \"shape\", \"data_offsets\"}", fmt::format("an entry without \"{}\"", key));
  return entry[key];
}

SafetensorsEntry parse_entry(const json& j, int64_t data_begin, int64_t data_size, const std::string& where) {
  const json &dtype = member(j, "dtype", where), &shape = member(j, "shape", where),
             &span = member(j, "data_offsets", where);
  if (!dtype.is_string()) throw bad_file(where, "a dtype as text", dtype.dump());
  if (!shape.is_array()) throw bad_file(where, "a shape as a list", shape.dump());
  if (!span.is_array() || span.size() != 2) throw bad_file(where, "data_offsets [begin, end]", span.dump());
  SafetensorsEntry e;
  e.dtype = dtype.get<std::string>();
  int64_t need = width_of(e.dtype, where);
  for (const json& extent : shape) {
    e.shape.push_back(unsigned_number(extent, where));
    if (__builtin_mul_overflow(need, e.shape.back(), &need))
      throw bad_file(where, "a shape of fewer than 2^63 bytes", shape.dump());
  }
  int64_t begin = unsigned_number(span[0], where), end = unsigned_number(span[1], where);
  if (begin > end || end > data_size)
    throw bad_file(where, fmt::format("data_offsets within the file's {} bytes of data", data_size), span.dump(),
                   "the file is cut short or damaged");
  if (end - begin != need)
    throw bad_file(where, fmt::format("{} bytes for {} {}", need, e.dtype, shape.dump()),
                   fmt::format("{} bytes", end - begin));
  e.offset = data_begin + begin, e.bytes = need;
  return e;
}

// The spans follow each other from the first byte of data to the last.
void require_cover(const SafetensorsHeader& h, int64_t begin, int64_t end, const std::string& name) {
  std::vector<std::pair<const SafetensorsEntry*, const std::string*>> order;
  for (const auto& [tensor, entry] : h.tensors) order.emplace_back(&entry, &tensor);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->offset, a.first->bytes) < std::pair(b.first->offset, b.first->bytes);
  });
  int64_t at = begin;
  for (const auto& [entry, tensor] : order) {
    if (entry->offset != at)
      throw bad_file(name + ": " + *tensor, fmt::format("data from byte {}, where the tensor before ends", at - begin),
                     fmt::format("byte {}: {}", entry->offset - begin, entry->offset < at ? "an overlap" : "a hole"));
    at += entry->bytes;
  }
  if (at != end)
    throw bad_file(name, "tensors up to the end of the file", fmt::format("{} bytes that belong to none", end - at));
}

void write_file_with(const std::filesystem::path& path, std::string_view header, const NamedTensors& tensors) {
  std::filesystem::path temporary = temporary_path(path);
  int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) throw os_error(temporary, "create the file", errno);
  try {
    write_all(fd, header, path);
    for (const auto& [name, tensor] : tensors)
      write_all(fd, {static_cast<const char*>(tensor.raw()), size_t(tensor.bytes())}, path);
  } catch (...) {
    ::close(fd);
    ::unlink(temporary.c_str());
    throw;
  }
  ::close(fd);
  replace_file(temporary, path);
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  uint64_t length = 0;
  if (file.size() < sizeof length)
    throw bad_file(name, "a safetensors file of at least 8 bytes", fmt::format("{} bytes", file.size()));
  std::memcpy(&length, file.data(), sizeof length);
  if (length > uint64_t(kLongestHeader) || length > file.size() - sizeof length)
    throw bad_file(name, fmt::format("a header within the file's {} bytes and 100 MB", file.size()),
                   fmt::format("a header of {} bytes", length), "no safetensors file, or one cut short");
  int64_t begin = int64_t(sizeof length + length), size = int64_t(file.size()) - begin;
  json j = parse_header({reinterpret_cast<const char*>(file.data()) + sizeof length, size_t(length)}, name);
  SafetensorsHeader header;
  for (const auto& [key, value] : j.items()) {
    if (key != "__metadata__") {
      header.tensors.emplace(key, parse_entry(value, begin, size, name + ": " + key));
      continue;
    }
    if (!value.is_object()) throw bad_file(name + ": __metadata__", "{text: text}", value.dump());
    for (const auto& [k, v] : value.items()) {
      if (!v.is_string()) throw bad_file(name + ": __metadata__", "{text: text}", value.dump());
      header.metadata.emplace(k, v.get<std::string>());
    }
  }
  require_cover(header, begin, int64_t(file.size()), name);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), map_(path), header_(parse_safetensors(map_.bytes(), path.string())) {}

core::Tensor SafetensorsFile::read(const std::string& tensor) const {
  auto it = header_.tensors.find(tensor);
  if (it == header_.tensors.end()) throw bad_file(path_, "the tensor " + tensor, "none of that name");
  const SafetensorsEntry& e = it->second;
  std::string where = path_.string() + ": " + tensor;
  auto type = dtype_of(e.dtype);
  if (!type) throw bad_file(where, "F64, F32, BF16, F16, I64, I32, U16, U8 or BOOL", e.dtype);
  if (e.shape.size() > size_t(core::Shape::kMaxDim))
    throw bad_file(where, "at most 6 dimensions", std::to_string(e.shape.size()));
  core::Shape shape;
  for (int64_t extent : e.shape) shape.push_back(extent);
  core::Tensor t = core::Tensor::empty(shape, *type);
  if (e.bytes) std::memcpy(t.raw(), map_.bytes().data() + e.offset, size_t(e.bytes));
  return t;
}

void write_safetensors(const std::filesystem::path& path, NamedTensors tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    int64_t wide_a = size_of(a.second.dtype()), wide_b = size_of(b.second.dtype());
    return wide_a != wide_b ? wide_a > wide_b : a.first < b.first;
  });
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t at = 0;
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(core::cpu).contiguous();
    std::vector<int64_t> shape(tensor.shape().begin(), tensor.shape().end());
    header[name] = {{"dtype", text_of(tensor.dtype())}, {"shape", shape}};
    header[name]["data_offsets"] = {at, at + tensor.bytes()};
    at += tensor.bytes();
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts aligned
  uint64_t length = text.size();
  std::string head(reinterpret_cast<const char*>(&length), sizeof length);
  write_file_with(path, head + text, tensors);
}

}  // namespace basis::trainers::hf

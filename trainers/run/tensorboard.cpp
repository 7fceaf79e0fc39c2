#include "trainers/run/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>

#include "trainers/run/files.h"

namespace basis::trainers {
namespace {

// --- protobuf wire format: a field is the key (number << 3 | wire type) and its value ------------------------------

enum Wire : uint32_t { varint_wire = 0, fixed64_wire = 1, bytes_wire = 2, fixed32_wire = 5 };

std::string little_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += char(value >> (8 * i) & 0xff);
  return out;
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += char((value & 0x7f) | 0x80);
  return out += char(value);
}

std::string key(uint32_t field, Wire wire) { return varint(field << 3 | wire); }

std::string integer(uint32_t field, int64_t value) { return key(field, varint_wire) + varint(uint64_t(value)); }

std::string real64(uint32_t field, double value) {
  return key(field, fixed64_wire) + little_endian(std::bit_cast<uint64_t>(value), 8);
}

std::string real32(uint32_t field, float value) {
  return key(field, fixed32_wire) + little_endian(std::bit_cast<uint32_t>(value), 4);
}

std::string bytes(uint32_t field, std::string_view value) {
  return key(field, bytes_wire) + varint(value.size()) + std::string(value);
}

// --- messages; the numbers are those of the .proto files -------------------------------------------------------------

namespace event {
constexpr uint32_t wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7;
}
namespace summary_value {
constexpr uint32_t tag = 1, simple_value = 2, tensor = 8, metadata = 9;
}

double now() {  // seconds since 1970
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event_message(int64_t step, const std::string& payload) {
  return real64(event::wall_time, now()) + integer(event::step, step) + payload;
}

std::string summary_event(int64_t step, const std::string& value) {
  return event_message(step, bytes(event::summary, bytes(1, value)));
}

// A DT_STRING (7) tensor of shape [1].
std::string string_tensor(std::string_view text) {
  constexpr uint32_t dtype = 1, shape = 2, string_val = 8;
  return integer(dtype, 7) + bytes(shape, bytes(2, integer(1, 1))) + bytes(string_val, text);
}

std::string plugin_metadata(std::string_view plugin) { return bytes(1, bytes(1, plugin)); }

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0 || !name[0]) return "localhost";
  return name;
}

std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table;
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}

// TFRecord stores CRCs rotated and offset, because a CRC of bytes that hold their own CRC is weak.
uint32_t masked_crc(std::string_view data) { return std::rotr(crc32c(data), 15) + 0xa282ead8u; }

}  // namespace

uint32_t crc32c(std::string_view data) {
  static const std::array<uint32_t, 256> table = crc_table();
  uint32_t crc = ~0u;
  for (unsigned char byte : data) crc = (crc >> 8) ^ table[(crc ^ byte) & 0xff];
  return ~crc;
}

std::string tfrecord(std::string_view data) {
  std::string length = little_endian(data.size(), 8);
  return length + little_endian(masked_crc(length), 4) + std::string(data) + little_endian(masked_crc(data), 4);
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory, std::optional<int64_t> resumed_after) {
  // TensorBoard reads the files of a directory in the order of their names: a later part needs a later time.
  int64_t time = int64_t(now());
  do {
    file_ = directory / fmt::format("events.out.tfevents.{:010}.{}", time++, host_name());
    descriptor_ = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) throw os_error(file_, "create the event file", errno);
  append(real64(event::wall_time, now()) + bytes(event::file_version, "brain.Event:2"));
  if (resumed_after) {  // SessionLog{status: START}: events of this step and later ones are void
    append(event_message(*resumed_after + 1, bytes(event::session_log, integer(1, 1))));
  }
}

TensorBoardWriter::~TensorBoardWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void TensorBoardWriter::append(std::string_view message) { write_all(descriptor_, tfrecord(message), file_); }

void TensorBoardWriter::scalar(std::string_view tag, int64_t step, double value) {
  append(summary_event(step, bytes(summary_value::tag, tag) + real32(summary_value::simple_value, float(value))));
}

void TensorBoardWriter::text(std::string_view tag, int64_t step, std::string_view markdown) {
  append(summary_event(step, bytes(summary_value::tag, tag) + bytes(summary_value::tensor, string_tensor(markdown)) +
                                 bytes(summary_value::metadata, plugin_metadata("text"))));
}

std::string markdown_code(std::string_view text) {
  std::string out = "    ";
  for (char c : text) {
    out += c;
    if (c == '\n') out += "    ";
  }
  return out;
}

}  // namespace basis::trainers

// Writes TensorBoard event files: TFRecord framing around protobuf `Event` messages (tensorflow/core/util/event.proto
// and tensorflow/core/framework/summary.proto), encoded by hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace basis::trainers {

class TensorBoardWriter {
 public:
  // Creates a new file `events.out.tfevents.<time>.<host>` in `directory`; files of earlier parts of the run stay.
  // `resumed_after`: the step that training continues from; TensorBoard then forgets what the earlier files hold for
  // later steps, which will be written again. Throws core::Error.
  explicit TensorBoardWriter(const std::filesystem::path& directory, std::optional<int64_t> resumed_after = {});
  ~TensorBoardWriter();
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

  const std::filesystem::path& file() const { return file_; }

  // Each call appends one record in one write. `tag`: "train/loss". `markdown` is shown under "Text".
  void scalar(std::string_view tag, int64_t step, double value);
  void text(std::string_view tag, int64_t step, std::string_view markdown);

 private:
  void append(std::string_view event);

  std::filesystem::path file_;
  int descriptor_ = -1;
};

// `text` as a markdown code block, for a configuration or a sample.
std::string markdown_code(std::string_view text);

// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78).
uint32_t crc32c(std::string_view bytes);

// One TFRecord: length (u64), masked CRC of the length, the bytes, masked CRC of the bytes; little-endian.
std::string tfrecord(std::string_view bytes);

}  // namespace basis::trainers

#include "trainers/run/metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <utility>

#include "core/error.h"
#include "trainers/run/files.h"

namespace basis::trainers {
namespace {

bool has_step(const Record& record) {
  if (!record.is_object()) return false;
  auto step = record.find("step");
  return step != record.end() && step->is_number_integer();
}

// Invalid UTF-8 in a string is replaced rather than thrown at the end of a step.
std::string line_of(const Record& record) {
  return record.dump(-1, ' ', false, Record::error_handler_t::replace) + "\n";
}

}  // namespace

std::vector<Record> read_metrics(const std::filesystem::path& file) {
  std::vector<Record> records;
  if (!std::filesystem::exists(file)) return records;
  std::ifstream in(file);
  if (!in) throw os_error(file, "open it", errno);
  for (std::string line; std::getline(in, line);) {
    Record record = Record::parse(line, nullptr, false);
    if (has_step(record)) records.push_back(std::move(record));
  }
  if (in.bad()) throw os_error(file, "read it", errno);
  return records;
}

MetricsLog::MetricsLog(std::filesystem::path file, int64_t last_step) : file_(std::move(file)) {
  std::string kept;
  for (const Record& record : read_metrics(file_)) {
    if (record["step"].get<int64_t>() <= last_step) kept += line_of(record);
  }
  write_file(file_, kept);
  descriptor_ = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor_ < 0) throw os_error(file_, "open it for appending", errno);
}

MetricsLog::~MetricsLog() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MetricsLog::append(const Record& record) {
  if (!has_step(record)) {
    throw core::Error({.where = file_.string(), .expected = "a record with an integer \"step\"", .got = record.dump()});
  }
  write_all(descriptor_, line_of(record), file_);
}

}  // namespace basis::trainers

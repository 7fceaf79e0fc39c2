#include "trainers/run/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/utf8.h"
#include "trainers/run/numbers.h"

namespace basis::trainers {
namespace {

struct Field {
  std::string text;
  int rank;  // 0 always stays; the highest is left out first
};

std::vector<Field> fields_of(const ProgressState& s) {
  double share = s.max_steps > 0 ? 100.0 * double(s.step) / double(s.max_steps) : 0;
  std::vector<Field> fields{
      {fmt::format("step {}/{}", with_thousands(double(s.step)), with_thousands(double(s.max_steps))), 0}};
  fields.push_back({fmt::format("{:3.0f}%", std::floor(share)), 5});
  if (s.loss) fields.push_back({fmt::format("loss {:.4f}", *s.loss), 1});
  if (s.val_loss) fields.push_back({fmt::format("val {:.4f}", *s.val_loss), 3});
  if (s.lr) fields.push_back({fmt::format("lr {:.2e}", *s.lr), 6});
  if (s.grad_norm) fields.push_back({fmt::format("grad {:.3g}", *s.grad_norm), 7});
  if (s.tokens_per_s > 0) fields.push_back({format_count(s.tokens_per_s) + " tok/s", 4});
  if (s.eta_s >= 0) fields.push_back({"ETA " + format_duration(s.eta_s), 2});
  return fields;
}

std::string join(const std::vector<Field>& fields) {
  std::string line;
  for (const Field& field : fields) line += (line.empty() ? "" : "  ") + field.text;
  return line;
}

std::string bar_of(const ProgressState& s, int cells) {
  double share = s.max_steps > 0 ? std::clamp(double(s.step) / double(s.max_steps), 0.0, 1.0) : 0;
  int full = int(share * cells);
  return fmt::format("[{:=<{}}{:.<{}}]", "", full, "", cells - full);
}

int terminal_width(std::FILE* out) {
  winsize size{};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool is_terminal(std::FILE* out) {
  const char* term = std::getenv("TERM");
  return ::isatty(::fileno(out)) && !(term && std::string_view(term) == "dumb");
}

}  // namespace

std::string format_progress(const ProgressState& state, int width, bool bar) {
  std::vector<Field> fields = fields_of(state);
  std::string line = join(fields);
  while (width > 0 && int(line.size()) > width) {
    auto least = std::max_element(fields.begin(), fields.end(), [](auto& a, auto& b) { return a.rank < b.rank; });
    if (least->rank == 0) return line.substr(0, size_t(width));
    fields.erase(least);
    line = join(fields);
  }
  int room = std::min(width - int(line.size()) - 4, 24);
  if (bar && room >= 8) line = bar_of(state, room) + "  " + line;
  return line;
}

Progress::Progress(int64_t first_step, int64_t max_steps, std::FILE* out)
    : max_steps_(max_steps), out_(out), terminal_(is_terminal(out)), last_time_(Clock::now()), last_step_(first_step) {}

Progress::~Progress() { finish(); }

double Progress::seconds_left(int64_t step) {
  Clock::time_point time = Clock::now();
  double elapsed = std::chrono::duration<double>(time - last_time_).count();
  int64_t steps = step - last_step_;
  if (steps > 0) {
    double rate = elapsed / double(steps);
    // Old steps fade with a time constant of a minute; the first ones count in full.
    double weight = seconds_per_step_ == 0 ? 1 : 1 - std::exp(-elapsed / 60);
    seconds_per_step_ += std::max(weight, 0.02) * (rate - seconds_per_step_);
    last_time_ = time;
    last_step_ = step;
  }
  return seconds_per_step_ > 0 ? seconds_per_step_ * double(max_steps_ - step) : -1;
}

void Progress::update(ProgressState state, bool log) {
  state.max_steps = max_steps_;
  state.eta_s = seconds_left(state.step);
  last_ = state;
  if (!terminal_) {
    if (log) fmt::print(out_, "{}\n", format_progress(state));
    if (log) std::fflush(out_);
    return;
  }
  if (Clock::now() - last_draw_ > std::chrono::milliseconds(100)) draw();
}

void Progress::note(std::string_view line) {
  erase();
  fmt::print(out_, "{}\n", core::printable(line));
  if (terminal_ && last_.max_steps > 0) draw();
  std::fflush(out_);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (!terminal_ || last_.max_steps == 0) return;
  draw();
  fmt::print(out_, "\n");
  std::fflush(out_);
}

void Progress::draw() {
  // A column stays free: a terminal wraps when its last one is written.
  fmt::print(out_, "\r{}\033[K", format_progress(last_, std::max(terminal_width(out_) - 1, 20), true));
  std::fflush(out_);
  drawn_ = true;
  last_draw_ = Clock::now();
}

void Progress::erase() {
  if (drawn_) fmt::print(out_, "\r\033[K");
  drawn_ = false;
}

}  // namespace basis::trainers

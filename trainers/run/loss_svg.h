// The loss curve of a run as one self-contained SVG, for a browser (light or dark), a README or a paper.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace basis::trainers {

struct LossPoint {
  int64_t step;
  double loss;  // nats per token; non-finite points are left out
};

struct LossCurve {
  std::string title, subtitle;               // the subtitle may be empty
  std::vector<LossPoint> train, validation;  // each in the order of its steps; either may be empty
  bool log_loss = false, log_step = false;
};

// The training loss is drawn as it is, pale, and smoothed by a running mean over at most 1/40 of the run; the
// validation loss with a ring at its minimum.
std::string loss_svg(const LossCurve& curve);

// Replaces `file` in one rename. Throws core::Error.
void write_loss_svg(const std::filesystem::path& file, const LossCurve& curve);

}  // namespace basis::trainers

#include "models/bert.h"
#include "models/gpt.h"
#include "models/model.h"

namespace basis::models {

std::unique_ptr<Model> make_model(const configs::ModelConfig& config) {
  if (config.vocab_size < 1)
    throw core::Error({.where = "model.vocab_size",
                       .expected = "at least 1",
                       .got = std::to_string(config.vocab_size),
                       .remedy = "set it, or give data with a tokenizer",
                       .code = core::ExitCode::usage});
  if (config.family == "bert") return std::make_unique<Bert>(config);
  return std::make_unique<Gpt>(config);
}

}  // namespace basis::models

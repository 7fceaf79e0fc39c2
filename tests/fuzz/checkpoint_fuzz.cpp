// Any bytes as a checkpoint, and a valid checkpoint with any edits: it loads, or core::Error; the model is untouched by
// a failed load.
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/log.h"
#include "models/model.h"
#include "tests/fuzz/scratch.h"
#include "trainers/checkpoint.h"

namespace {

using namespace basis;

std::unique_ptr<models::Model> small_model() {
  configs::ModelConfig c;
  c.n_layer = 1, c.n_head = 1, c.d_model = 4, c.vocab_size = 5, c.max_seq_len = 3;
  auto model = models::make_model(c);
  model->initialize(1, core::cpu);
  return model;
}

std::vector<uint8_t> valid_checkpoint() {
  auto model = small_model();
  trainers::Optimizer optimizer({}, model->parameters(), false);
  auto path = fuzz::scratch("valid.h5");
  trainers::save_checkpoint(path, {.step = 3, .config = "run: {}", .tokenizer = ""}, *model, &optimizer);
  return fuzz::read(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<uint8_t> valid = valid_checkpoint();
  static auto model = small_model();
  static trainers::Optimizer optimizer({}, model->parameters(), false);
  if (size == 0) return 0;
  std::vector<uint8_t> file(data + 1, data + size);
  if (data[0] % 2) file = fuzz::edited(valid, data + 1, size - 1);
  auto path = fuzz::write("step-3.h5", file.data(), file.size());
  float before = model->parameters().front().var.value().data<float>()[0];
  try {
    trainers::read_checkpoint_state(path);
    trainers::load_checkpoint(path, *model, &optimizer);
  } catch (const core::Error&) {
    float after = model->parameters().front().var.value().data<float>()[0];
    if (std::memcmp(&before, &after, sizeof before) != 0) std::abort();
  }
  return 0;
}

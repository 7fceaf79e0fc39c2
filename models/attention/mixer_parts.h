// What the mixers' files share.
#pragma once

#include <string>

#include "models/attention/attention.h"
#include "ops/common/attention.h"

namespace basis::models {

// Softmax attention's options as a pass needs them; draws the dropout stream while training.
ops::AttentionOptions attention_options(const MixerOptions& o, const Pass& pass);

// Throws core::Error (usage) for attention.mixer.`where`.
[[noreturn]] void refuse(const std::string& where, const std::string& expected, const std::string& got,
                         const std::string& remedy = "");

std::unique_ptr<Mixer> make_low_rank_mixer(const MixerOptions& options);
std::unique_ptr<Mixer> make_long_lora_mixer(const MixerOptions& options);

}  // namespace basis::models

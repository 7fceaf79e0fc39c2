// What a family of models takes where the config does not say.
#pragma once

#include "configs/model_config.h"
#include "models/attention/attention.h"
#include "models/layers.h"

namespace basis::models {

NormType norm_type(const configs::ModelConfig& c);
Activation activation(const configs::ModelConfig& c);
bool has_bias(const configs::ModelConfig& c);
bool ties_embeddings(const configs::ModelConfig& c);
int64_t mlp_width(const configs::ModelConfig& c);
double output_init_std(const configs::ModelConfig& c);  // of the layers that write to the residual stream

Mlp::Options mlp_options(const configs::ModelConfig& c);
std::unique_ptr<Projector> make_projector(const configs::ModelConfig& c, int layer);
MixerOptions mixer_options(const configs::ModelConfig& c, int layer, bool causal);
std::unique_ptr<Mixer> make_mixer(const configs::ModelConfig& c, int layer, bool causal);
std::optional<ops::RopeOptions> rope_options(const configs::ModelConfig& c);  // families with rotary positions
bool latent_attention(const configs::ModelConfig& c);                         // its projector rotates by itself

}  // namespace basis::models

#include "trainers/hf/regauge.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/factor/decompose.h"
#include "models/family.h"
#include "trainers/hf/channels.h"
#include "trainers/hf/pace.h"
#include "trainers/hf/weights.h"

namespace basis::trainers::hf {
namespace {

using configs::ModelConfig;
using configs::ProjectorConfig;
using core::DType;
using core::Tensor;
using models::Model;

std::string attention_path(int64_t layer) { return fmt::format("layers/{}/attention/", layer); }

// Latent attention: the channels that k and v read are rows of the latent's weight and of its norm's.
void reorder_latent(const Weights& from, Weights& to, const std::string& path, const Channels& order) {
  for (const char* name : {"latent/weight", "latent/bias", "latent/norm/weight"}) {
    if (!from.has(path + name)) continue;
    Tensor x = from.get(path + name);
    Tensor columns = transposed(x.view({x.size(0), x.numel() / x.size(0)}));
    to.set(path + name, transposed(take_columns(columns, order, x.size(0), false)));
  }
}

// Learned breakpoints: scores [Hkv, Hkv D] that read all heads' keys side by side. A head's first channels are now
// those times T^-1; after them come rotated ones that stay.
void rescore(Weights& w, const std::string& path, const Tensor& t) {
  if (!w.has(path)) return;
  int64_t heads = t.size(0), dh = t.size(1), n = w.shape(path)[0], width = w.shape(path)[1] / heads;
  Tensor scores = transposed(w.get(path)).view({heads, width, n});  // [Hkv, D, n]
  Tensor keys = scores.slice(1, 0, dh).contiguous().view({heads * dh, n});
  scores.slice(1, 0, dh).copy_from(core::apply_per_head(t, keys).view({heads, dh, n}));
  w.set(path, transposed(scores.view({heads * width, n})));
}

void set_projector(ModelConfig& c, const ProjectorConfig& p) {
  c.attention.projector = p;
  for (auto& [layer, attention] : c.layers) attention.projector = p;
}

// Channels of a head in q and k (without a rotated part beside) and in v.
struct Widths {
  int64_t qk, vo;
  explicit Widths(const ModelConfig& c)
      : qk(c.head_width()), vo(models::latent_attention(c) ? c.value_width() : c.head_width()) {}
};

// One layer's rows and factors.
struct LayerBasis {
  Channels order;
  core::BasisFactors qk, vo;  // empty where that pair stays dense
  ProjectorConfig projector;
};

LayerBasis arranged(core::BasisFactors qk, core::BasisFactors vo, int64_t d, const ProjectorConfig& o) {
  LayerBasis b{.qk = std::move(qk), .vo = std::move(vo)};
  b.projector = {.type = "bd", .basis = o.basis, .qk_slice = "front", .vo_slice = "back", .qk = o.qk, .vo = o.vo};
  bool pivoted = o.basis == "pivoted";
  b.order = pivoted ? order_of(d, b.qk.rows, b.vo.rows) : identity(d);
  if (!pivoted) {
    b.projector.qk_slice = o.qk && b.qk.rows[0] > 0 ? "back" : "front";
    b.projector.vo_slice = o.vo && b.vo.rows[0] > 0 ? "back" : "front";
  }
  return b;
}

using Wanted = std::map<int64_t, ProjectorConfig>;

// All the layers at once: K with Q, then V with O, whose rows lie apart from K's.
void factor_layers(const Weights& w, const Wanted& wanted, Widths dh, core::Device device,
                   std::vector<LayerBasis>& bases) {
  std::map<int64_t, core::BasisFactors> qk, vo;
  for (bool value : {false, true})
    for (const char* basis : {"first", "last", "residual_min", "pivoted"}) {
      Channels layers;
      for (const auto& [i, o] : wanted)
        if (o.basis == basis && (value ? o.vo : o.qk)) layers.push_back(i);
      std::vector<core::BasisTask> tasks(layers.size());
      for_each_layer(int64_t(layers.size()), [&](int64_t i) {
        std::string path = attention_path(layers[size_t(i)]);
        Tensor partner = w.get(path + (value ? "out/weight" : "q/weight"));
        tasks[size_t(i)] = {.weight = w.get(path + (value ? "v/weight" : "k/weight")),
                            .partner = value ? transposed(partner) : partner};
        if (auto k = qk.find(layers[size_t(i)]); value && std::string_view(basis) == "pivoted" && k != qk.end())
          tasks[size_t(i)].taken = k->second.rows;
      });
      auto factors = core::decompose_all(tasks, value ? dh.vo : dh.qk, core::parse_basis_choice(basis), device);
      for (size_t i = 0; i < layers.size(); ++i) (value ? vo : qk)[layers[i]] = std::move(factors[i]);
    }
  for (const auto& [i, o] : wanted)
    bases[size_t(i)] = arranged(std::move(qk[i]), std::move(vo[i]), w.shape(attention_path(i) + "k/weight")[1], o);
}

// So many that their weights in f64 take at most about a gigabyte.
std::vector<Wanted> batches(const Wanted& wanted, const Weights& w) {
  std::vector<Wanted> all;
  int64_t numbers = 0;
  for (const auto& [i, o] : wanted) {
    core::parse_basis_choice(o.basis);  // refuses an unknown name
    int64_t more = 0;
    for (const char* name : {"q/weight", "k/weight", "v/weight", "out/weight"})
      more += w.shape(attention_path(i) + name).numel();
    if (all.empty() || (numbers += more) > (int64_t{1} << 27)) all.emplace_back(), numbers = more;
    all.back()[i] = o;
  }
  return all;
}

void write_layer(const Weights& from, Weights& to, const std::string& path, const LayerBasis& b) {
  int64_t d = int64_t(b.order.size());
  auto reordered = [&](const std::string& name) { return take_columns(from.get(path + name), b.order, d, false); };
  auto bias = [&](const std::string& name, auto&& change) {
    if (from.has(path + name)) {
      Tensor x = from.get(path + name);
      to.set_if(path + name, change(x.view({x.numel(), 1})));
    }
  };
  auto same = [](const Tensor& x) { return x; };
  if (to.has(path + "order"))
    to.set(path + "order", Tensor::from(std::vector<double>(b.order.begin(), b.order.end()), {d}));
  bool latent = from.has(path + "latent/weight");
  if (b.projector.qk)
    for (const char* mixer : {"", "reference/"}) rescore(to, path + mixer + "breakpoints/weight", b.qk.t);
  if (latent) reorder_latent(from, to, path, b.order);
  Tensor q = latent ? from.get(path + "q/weight") : reordered("q/weight"),
         out = transposed(from.get(path + "out/weight"));
  if (b.projector.qk) {
    to.set(path + "q/weight", core::apply_per_head(b.qk.t, q));
    bias("q/bias", [&](const Tensor& x) { return core::apply_per_head(b.qk.t, x); });
    to.set(path + "k/weight", stored_c(b.qk, b.order, b.projector.qk_slice == "back"));
    bias("k/bias", [&](const Tensor& x) { return core::solve_per_head(b.qk.t, x); });  // where the mixer sees it
  } else {
    to.set(path + "q/weight", q), bias("q/bias", same);
    to.set(path + "k/weight", reordered("k/weight")), bias("k/bias", same);
  }
  if (b.projector.vo) {
    to.set(path + "v/weight", stored_c(b.vo, b.order, b.projector.vo_slice == "back"));
    bias("v/bias", [&](const Tensor& x) { return core::solve_per_head(b.vo.t, x); });
    to.set(path + "out/weight", transposed(core::apply_per_head(b.vo.t, out)));
  } else {
    to.set(path + "v/weight", reordered("v/weight")), bias("v/bias", same);
    to.set(path + "out/weight", from.get(path + "out/weight"));
  }
  bias("out/bias", same);
}

// The dense weights that a layer's (possibly rounded) BD weights stand for.
AttentionWeights dense_layer(const Weights& w, const std::string& path, const ProjectorConfig& p, Widths dh,
                             DType rounding, const Channels& latent_order = {}) {
  auto get = [&](const std::string& name) {
    return rounding == DType::f64 ? w.get(path + name) : w.get(path + name).to(rounding).to(DType::f64);
  };
  bool bd = p.type == "bd";
  Tensor q = get("q/weight");
  int64_t d = w.get(path + "k/weight").size(1) + (bd && p.qk ? dh.qk : 0);
  Channels order = latent_order.empty() ? identity(d) : latent_order;
  if (w.has(path + "order")) {
    auto values = w.get(path + "order").to_vector<double>();
    order.assign(values.begin(), values.end());
    q = take_columns(q, order, d, true);
  }
  bool in_order = std::is_sorted(order.begin(), order.end());
  auto narrow = [&](const std::string& name, bool bd, int64_t width, const std::string& slice) {
    if (bd) return written_out(get(name), width, order, slice == "back");
    return in_order ? get(name) : take_columns(get(name), order, d, true);
  };
  return {q, narrow("k/weight", bd && p.qk, dh.qk, p.qk_slice), narrow("v/weight", bd && p.vo, dh.vo, p.vo_slice),
          get("out/weight")};
}

// Biases go with the weights that they are added to.
void set_paces(Weights& to, const std::string& path, const AttentionPaces& p, const ProjectorConfig& projector) {
  if (projector.qk)
    for (const char* name : {"weight", "bias"})
      to.set_pace(path + "q/" + name, p.q), to.set_pace(path + "k/" + name, p.k);
  if (projector.vo) {
    for (const char* name : {"weight", "bias"}) to.set_pace(path + "v/" + name, p.v);
    to.set_pace(path + "out/weight", p.out);
  }
}

}  // namespace

bool has_bd(const ModelConfig& c) {
  for (int64_t i = 0; i < c.n_layer; ++i)
    if (c.attention_of(i).projector.type == "bd") return true;
  return false;
}

Regauged to_bd(const Model& dense, const RegaugeOptions& o) {
  Weights from(dense);
  ModelConfig c = dense.config();
  Widths dh(c);
  Wanted wanted = o.layers;
  const ProjectorConfig usual{.type = "bd", .basis = o.basis, .qk = o.qk, .vo = o.vo};
  if (o.layers.empty()) {
    for (int64_t i = 0; i < c.n_layer; ++i) wanted[i] = usual;
    set_projector(c, usual);
  }
  for (const auto& [i, p] : wanted) c.layers.try_emplace(i, c.attention).first->second.projector = p;
  models::make_model(c);  // refuses what cannot be
  for (const auto& [i, p] : wanted)
    if (p.qk && !models::mixes_by_products(models::mixer_options(c, int(i), true)))
      throw core::Error({.where = fmt::format("Basis Decomposition of layer {}", i),
                         .expected = "a mixer that reads q and k through their products alone",
                         .got = "mixer low_rank, features: " + c.attention_of(i).mixer.features,
                         .remedy = "leave QK out (--no-qk, projector.qk: false), or features: taylor",
                         .code = core::ExitCode::usage});
  std::vector<LayerBasis> bases(static_cast<size_t>(c.n_layer));
  for (const Wanted& batch : batches(wanted, from)) factor_layers(from, batch, dh, o.device, bases);
  for (const auto& [i, p] : wanted) {
    c.layers.at(i).projector = bases[size_t(i)].projector;
    if (o.layers.empty() && !dense.config().layers.contains(i) && bases[size_t(i)].projector == usual)
      c.layers.erase(i);
  }
  Regauged r;
  r.model = empty_model(c, dense.parameters()[0].var.dtype());
  Weights to(*r.model);
  to.copy_common(from);
  if (o.report) r.layers = std::vector<nlohmann::ordered_json>(bases.size(), nlohmann::ordered_json::object());
  for_each_layer(c.n_layer, [&](int64_t i) {
    if (!wanted.contains(i)) return;
    const ProjectorConfig& p = wanted.at(i);
    const LayerBasis& b = bases[size_t(i)];
    std::string path = attention_path(i);
    write_layer(from, to, path, b);
    Channels order = from.has(path + "latent/weight") ? b.order : Channels{};
    AttentionWeights exact = dense_layer(from, path, {}, dh, DType::f64);
    set_paces(to, path,
              gauge_paces(exact, dense_layer(to, path, b.projector, dh, DType::f64, order), dh.qk, p.qk, p.vo), p);
    if (!o.report) return;
    LayerErrors errors(exact, dh.qk, c.n_head / c.kv_heads());
    for (DType t : {DType::f32, DType::f16, DType::bf16})
      errors.add(std::string(name_of(t)), dense_layer(to, path, b.projector, dh, t, order),
                 dense_layer(from, path, {}, dh, t));
    r.layers[size_t(i)] = errors.report(b.qk.heads, b.vo.heads);
  });
  return r;
}

std::unique_ptr<Model> to_dense(const Model& bd) {
  Weights from(bd);
  ModelConfig c = bd.config();
  Widths dh(c);
  set_projector(c, {});
  auto model = empty_model(c, bd.parameters()[0].var.dtype());
  Weights to(*model);
  to.copy_common(from);
  for (int64_t i = 0; i < c.n_layer; ++i) {
    std::string path = attention_path(i);
    AttentionWeights w = dense_layer(from, path, bd.config().attention_of(i).projector, dh, DType::f64);
    to.set(path + "q/weight", w.q), to.set(path + "k/weight", w.k), to.set(path + "v/weight", w.v);
    to.set(path + "out/weight", w.out);
    for (const char* name : {"q/weight", "q/bias", "k/weight", "k/bias", "v/weight", "v/bias", "out/weight"})
      to.set_pace(path + name, {});
    for (const char* name : {"q/bias", "k/bias", "v/bias", "out/bias"}) {
      if (!to.has(path + name)) continue;
      bool kept = from.has(path + name);
      to.set(path + name, kept ? from.get(path + name) : Tensor::zeros({c.kv_heads() * dh.qk}, DType::f64));
    }
  }
  return model;
}

}  // namespace basis::trainers::hf

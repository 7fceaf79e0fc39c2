#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "trainers/optim/optimizer.h"

namespace basis::trainers {
namespace {

// In fixed blocks summed in order: the same bits whatever the number of threads.
template <class T>
void squared_norm(const Tensor& x, double& sum) {
  constexpr int64_t block = 1 << 14;
  int64_t n = x.numel(), blocks = (n + block - 1) / block;
  const T* p = x.data<T>();
  std::vector<double> partial(static_cast<size_t>(blocks));
  core::parallel_for(blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      double lanes[8] = {};
      int64_t i = b * block, stop = std::min(n, i + block);
      for (; i + 8 <= stop; i += 8)
        for (int l = 0; l < 8; ++l) lanes[l] += double(p[i + l]) * double(p[i + l]);
      for (; i < stop; ++i) lanes[0] += double(p[i]) * double(p[i]);
      for (double l : lanes) partial[size_t(b)] += l;
    }
  });
  for (double s : partial) sum += s;
}

template <class T>
void squared_norms(const Tensors& xs, const Tensor& scalars) {
  for (const Tensor& x : xs) squared_norm<T>(x, scalars.data<double>()[kSquaredNorm]);
}

void finish(const Tensor& scalars, bool dynamic_loss_scale) {
  double* s = scalars.data<double>();
  double norm = std::sqrt(s[kSquaredNorm]) / s[kLossScale];
  bool finite = std::isfinite(norm);
  s[kNorm] = norm;
  s[kSkip] = finite ? 0 : 1;
  s[kFactor] = (s[kMaxNorm] > 0 ? std::min(1.0, s[kMaxNorm] / (norm + 1e-6)) : 1.0) / s[kLossScale];
  s[kTime] += finite;
  if (!dynamic_loss_scale) return;
  s[kGoodSteps] = finite ? s[kGoodSteps] + 1 : 0;
  if (!finite)
    s[kLossScale] = std::max(1.0, s[kLossScale] / 2);
  else if (s[kGoodSteps] >= 2000)
    s[kLossScale] *= 2, s[kGoodSteps] = 0;
}

constexpr int64_t kGrain = 1 << 14;

template <class T>
void adamw(const Hyper& h, const double* s, const Update& u) {
  T b1 = T(h.beta1), b2 = T(h.beta2), c1 = T(1 - h.beta1), c2 = T(1 - h.beta2), eps = T(h.eps), factor = T(s[kFactor]);
  double lr = s[kLearningRate] * u.lr_scale;
  T decay = T(1 - lr * u.weight_decay), rate = T(lr / (1 - std::pow(h.beta1, s[kTime])));
  T root = T(1 / std::sqrt(1 - std::pow(h.beta2, s[kTime])));
  T *p = u.parameter.data<T>(), *m = u.first.data<T>(), *v = u.second.data<T>();
  const T* g = u.gradient.data<T>();
  core::parallel_for(u.parameter.numel(), kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T x = g[i] * factor;
      m[i] = b1 * m[i] + c1 * x;
      v[i] = b2 * v[i] + c2 * x * x;
      p[i] = p[i] * decay - rate * m[i] / (std::sqrt(v[i]) * root + eps);
    }
  });
}

template <class T>
void sgd(const Hyper& h, const double* s, const Update& u) {
  double lr = s[kLearningRate] * u.lr_scale;
  T mu = T(h.momentum), rate = T(lr), decay = T(1 - lr * u.weight_decay), factor = T(s[kFactor]);
  T *p = u.parameter.data<T>(), *m = u.first.data<T>();
  const T* g = u.gradient.data<T>();
  core::parallel_for(u.parameter.numel(), kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      m[i] = mu * m[i] + g[i] * factor;
      p[i] = p[i] * decay - rate * m[i];
    }
  });
}

template <void (*update)(const Hyper&, const double*, const Update&)>
void update_all(const Hyper& h, const Tensor& scalars, const std::vector<Update>& updates) {
  const double* s = scalars.data<double>();
  if (s[kSkip] != 0) return;
  for (const Update& u : updates) {
    update(h, s, u);
    if (u.copy) u.copy.copy_from(u.parameter);
  }
}

REGISTER_KERNEL(add_squared_norms, cpu, f32, squared_norms<float>)
REGISTER_KERNEL(add_squared_norms, cpu, f64, squared_norms<double>)
REGISTER_KERNEL(finish_norm, cpu, f64, finish)
REGISTER_KERNEL(adamw_update, cpu, f32, update_all<adamw<float>>)
REGISTER_KERNEL(adamw_update, cpu, f64, update_all<adamw<double>>)
REGISTER_KERNEL(sgd_update, cpu, f32, update_all<sgd<float>>)
REGISTER_KERNEL(sgd_update, cpu, f64, update_all<sgd<double>>)

}  // namespace
}  // namespace basis::trainers

// Features of queries and keys whose products stand for softmax attention's weights: phi(q) . phi(k) ~ exp(q . k).
#pragma once

#include "ops/common/check.h"

namespace basis::ops {

enum class Features : uint8_t {
  elu,     // elu(x) + 1, r = D: positive, and no approximation of exp (Katharopoulos et al., arXiv 2006.16236)
  taylor,  // sum of (q . k)^n / n! up to n = degree: r = C(D + degree, degree). Degree 2 is positive, degree 1 is not
  random   // exp(w . x - |x|^2 / 2) / sqrt(r), w ~ N(0, I): positive, unbiased (Choromanski et al., arXiv 2009.14794)
};

struct FeatureOptions {
  Features kind = Features::elu;
  int degree = 2;     // of taylor: 1 or 2
  Tensor directions;  // of random: [D, r], columns w, f32
  double scale = 0;   // on x before; 0: D^(-1/4) (so that q . k is divided by sqrt(D)), for elu 1
  FeatureOptions to(Device device) const { return {kind, degree, directions.to(device), scale}; }
};

// |exp(x) - sum of x^n / n! up to degree| for |x| <= bound: e^bound bound^(degree+1) / (degree+1)!, the remainder that
// the polynomial method's low-rank approximation rests on (arXiv 2405.05219; Alman & Song, NeurIPS 2023).
double taylor_error_bound(double bound, int degree);

// r for heads of D channels.
int64_t feature_count(const FeatureOptions& o, int64_t D);
// w for FeatureOptions::directions: [D, r], drawn from this seed, the same on every device.
Tensor random_directions(int64_t D, int64_t r, uint64_t seed);

// x [..., D] float -> [..., r] of the same dtype; computed in f32 (f64 for f64).
Var attention_features(const Var& x, const FeatureOptions& options);

// x [n, D], y [n, r]; the scale is given and not 0.
inline constinit KernelTable<void(const Tensor& x, const FeatureOptions&, const Tensor& y)> attention_features_forward{
    "attention_features"};
inline constinit KernelTable<void(const Tensor& x, const Tensor& y, const Tensor& dy, const FeatureOptions&,
                                  const Tensor& dx)>
    attention_features_backward{"attention_features backward"};

}  // namespace basis::ops

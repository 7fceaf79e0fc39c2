// Approximations of a weight W [m, n] by one of rank r, in f64 on the host.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace basis::core {

struct LowRankFactors {
  Tensor u, v;   // W ~ u v: [m, r] and [r, n] f64, columns of u and rows of v equally long, the heaviest first
  double error;  // relative, in the Frobenius norm: of W, or of W x over the inputs that `moment` stands for
};

// The W' of rank `rank` (1 .. min(m, n)) that is nearest to W [m, n] f64: the truncated singular value decomposition.
// With `moment` [n, n] f64, the mean of x x^T over inputs x, the W' with the least mean |W x - W' x|^2.
LowRankFactors truncate(const Tensor& w, int64_t rank, const Tensor& moment = {});

// Numbers held by an m x n weight of rank r, as two factors or in Basis Decomposition (arXiv 2510.01718).
int64_t low_rank_size(int64_t m, int64_t n, int64_t rank, bool bd);
// The largest rank that holds at most `keep` of m n numbers, rounded down to a multiple of 8 from 64 on; at least 1.
int64_t rank_for(int64_t m, int64_t n, double keep, bool bd);

// One order of the n channels for weights v_i [r_i, n] f64 that read the same input: the first r_i channels are a basis
// of v_i, for every i, chosen as core::BasisChoice::pivoted does. Throws core::Error (bad_file) where there is none.
std::vector<int64_t> joint_order(const std::vector<Tensor>& v);

}  // namespace basis::core

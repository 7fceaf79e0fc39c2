// Basis Decomposition of attention projections (arXiv 2510.01718): W (d x dh) = [I ; C] T with T = W[S], dh independent
// rows S of W. Everything in f64 on the host, from the original weights.
//
// Projections come as PyTorch stores them: row h dh + j of `weight` [H dh, d] is column j of head h's W. The heads of a
// layer share S, so that each adds the same channels of x.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace basis::core {

// How S is chosen. `residual_min`: the paper's, the better of `first` and `last`. `pivoted`: rows that are well
// conditioned for all heads together (greedy, then exchanges while they pay: by volume, or by the error that rounding
// leaves in the product with a partner).
enum class BasisChoice { first, last, residual_min, pivoted };
BasisChoice parse_basis_choice(std::string_view name);  // core::Error (usage) for another name

struct HeadFactor {
  double condition;  // of T in the 2-norm
  double largest;    // max |C|
};

struct BasisFactors {
  std::vector<int64_t> rows;  // S; row i of T is channel rows[i]
  std::vector<int64_t> rest;  // the other channels, ascending
  Tensor t;                   // [H, dh, dh] f64
  Tensor c;                   // [H dh, d - dh] f64: row h dh + j is column j of C_h, channels as in `rest`
  std::vector<HeadFactor> heads;
};

// The rows that `choice` takes, without the channels in `taken`. Contiguous choices ignore `taken`. `partner` [G H dh,
// n] f64, for `pivoted`: what T is to multiply (queries, or the output's rows), G heads for each of the weight's.
std::vector<int64_t> choose_basis(const Tensor& weight, int64_t head_dim, BasisChoice choice,
                                  std::span<const int64_t> taken = {}, const Tensor& partner = {});

// Throws core::Error (bad_file) naming the head when T is singular to working precision.
BasisFactors decompose(const Tensor& weight, int64_t head_dim, std::span<const int64_t> rows);

double condition_number(const double* t, int64_t head_dim);  // of T in the 2-norm; infinite for a singular T
void require_independent(const BasisFactors& f);             // throws what decompose does

// Applies a head's factor to projections stored [H dh, n] f64: each query head h uses t of head h / (H / Ht).
Tensor apply_per_head(const Tensor& t, const Tensor& weight);  // W_h -> T W_h
Tensor solve_per_head(const Tensor& t, const Tensor& weight);  // W_h -> T^-T W_h

}  // namespace basis::core

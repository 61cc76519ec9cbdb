// Integer weights with the least error of a layer's output, from the second moments of its inputs.
//
// For each row t of weights and a Gram matrix H the solver looks for codes q with x = (q + offset)
// * scale and a small (t - x) H (t - x)^T: first rounding with error feedback (GPTQ, the same as
// Babai's nearest plane), then moves of single codes by whole steps until none helps, and, where it
// is asked to, the best scale for the codes in turn. With H = I it is rounding to nearest.
//
// Source: Frantar et al. 2023 (GPTQ, arXiv 2210.17323); Nagel et al. 2020 (AdaRound, arXiv
// 2004.10568), section 3.2, for the quadratic form.
#pragma once

#include "aimet/algorithms/layer_moments.h"
#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace aimet {

// What the solver is given.
struct RoundingProblem {
  at::Tensor target;  // (groups, o, d): the real weights with the least error
  at::Tensor gram;    // (groups, d, d): H, damped
};

// The least-squares problem of a layer: W that minimizes E |W x + b - y|^2, drawn towards `weight`
// by `damping` times the mean of H's diagonal. Where the layer has a bias it takes up the means,
// and H and C are centred.
//   weight: (groups, o, d), what grouped_weight() gives with its last two dimensions flattened.
// Returns target and gram in float64. ValueError: no data yet, shapes do not fit, damping <= 0.
AIMET_API RoundingProblem rounding_problem(const LayerMoments& moments, const at::Tensor& weight,
                                           bool has_bias, double damping);

// The bias that goes with integer weights: E[y] - W E[x], (groups * o), float64.
AIMET_API at::Tensor bias_of_means(const LayerMoments& moments, const at::Tensor& weight);

// Scales and offsets with the least squared error sum_j h_j (w_j - x_j)^2 of rounding to nearest,
// one for each block of each row: ranges of k / 100 of the block's own, then the best scale for the
// codes in turn.
//   weight: (groups, o, d); importance h: (groups, d), or empty for 1; d is a multiple of `blocks`.
//   Returns (scale, offset), float64, (groups, o, blocks).
AIMET_API std::tuple<at::Tensor, at::Tensor> search_weight_scales(const at::Tensor& weight,
                                                                  const at::Tensor& importance,
                                                                  int64_t blocks, int64_t qmin,
                                                                  int64_t qmax, bool symmetric);

struct RoundingOptions {
  bool feedback = true;       // otherwise the descent starts from rounding to nearest
  bool refine_scale = false;  // scales of blocks and channels follow the codes
  int64_t max_sweeps = 100;   // of the descent; 0: GPTQ alone
  bool order = true;          // the inputs with the largest diagonal of H are rounded first
  // Starts: these multiples of the scales; the best result is kept for each row.
  std::vector<double> scale_factors = {1.0};
  bool from_nearest_too = false;  // one more start: never worse than rounding to nearest
};

// Returns (codes (groups, o, d), scale (groups, o, blocks), objective (groups, o)), float64. The
// same bits with any number of threads. ValueError: shapes do not fit, a scale that is not
// positive.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> optimize_rounding(
    const RoundingProblem& problem, const at::Tensor& scale, const at::Tensor& offset, int64_t qmin,
    int64_t qmax, const RoundingOptions& options);

// e H e^T for each row of e: (groups, o).
AIMET_API at::Tensor quadratic_form(const at::Tensor& error, const at::Tensor& gram);

}  // namespace aimet

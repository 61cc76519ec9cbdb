// Which channels of a network to keep, from the second moments of what the layers that read them
// get.
//
// Channels come in units that stay or go as one. A reader is a layer (or one group of it) that
// multiplies units by its weights: rows T (o, d), positive definite Gram matrix H (d, d) of its
// inputs, and for each of the d inputs the unit it belongs to, -1 for what always stays. Without
// the units in R its outputs are off by
//
//   tr(T_R H_RR T_R^T)                          with the weights of the others as they are,
//   tr(T_R ((H^-1)_RR)^-1 T_R^T)                with the others' weights solved for again,
//
// and what counts is the sum of `scale` times that over all readers.
//
// Source: Hassibi and Stork 1993 (optimal brain surgeon), generalized to blocks of weights: the
// second line; He et al. 2017 (arXiv 1707.06168): the LASSO.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace aimet {

struct ChannelReader {
  at::Tensor weight;  // T, (o, d)
  at::Tensor gram;    // H, (d, d)
  at::Tensor unit;    // (d,) int64
  double scale = 1.0;
};

struct ChannelOrder {
  at::Tensor order;  // (n,) int64: units, the first to go first
  at::Tensor error;  // (n + 1,) float64: error[k] is what the first k of them cost together
};

// Sum of squared weights of each unit, (units,) float64: AIMET's measure, with d elements of `unit`
// for the second dimension of weight (o, d).
AIMET_API at::Tensor channel_magnitude(const at::Tensor& weight, const at::Tensor& unit,
                                       int64_t units);

// The error of unit pairs, (units, units) float64: without refitting, units R cost the sum of its
// entries over R x R.
AIMET_API at::Tensor channel_quadratic(const std::vector<ChannelReader>& readers, int64_t units);

// Units in the order in which they are given up greedily: every time the one that adds least to the
// error. `least` of them stay, and those that `fixed` (units,) bool names.
//   base: (units,) what a unit costs besides, independently of the others.
//   refits: the weights of the others are solved for again.
// The same bits with any number of threads. ValueError: shapes do not fit, or a unit is out of
// range.
AIMET_API ChannelOrder eliminate_channels(const std::vector<ChannelReader>& readers,
                                          const at::Tensor& base, const at::Tensor& fixed,
                                          int64_t least, bool refits);

// What it costs to give up units in a given order: error of ChannelOrder, (n + 1,).
AIMET_API at::Tensor channel_errors(const std::vector<ChannelReader>& readers,
                                    const at::Tensor& base, const at::Tensor& order, bool refits);

struct ChannelLasso {
  at::Tensor coefficient;  // (units,) float64: beta, 0 for what goes
  at::Tensor penalty;      // () float64: lambda
};

// The LASSO of He et al.: beta that minimizes 1/2 (1 - beta) Q (1 - beta)^T + lambda sum n_i
// |beta_i|, by coordinate descent, with the least lambda that leaves at most `count` units; then
// beta is 0 for all others.
//   quadratic: Q from channel_quadratic(). norm: n, (units,) positive, the norm of a unit's weights.
// Those that `fixed` names have no penalty and stay. ValueError: shapes do not fit, or `count` is
// not within the number of fixed units (at least 1) and all.
AIMET_API ChannelLasso channel_lasso(const at::Tensor& quadratic, const at::Tensor& norm,
                                     const at::Tensor& fixed, int64_t count);

// Units in the order in which they leave as lambda grows, (units - fixed ones,) int64.
AIMET_API at::Tensor channel_lasso_order(const at::Tensor& quadratic, const at::Tensor& norm,
                                         const at::Tensor& fixed, int64_t steps);

}  // namespace aimet

// High-bias absorption: what a channel nearly always carries (its bias) moves through the
// activation into the bias of the next layer, so that the activation between them spans a smaller
// range. Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1.3.
//
// A pre-activation z that leaves a batch normalization with beta and gamma is taken to be normal
// with mean beta and deviation |gamma|. With c = max(0, beta - 3 |gamma|), relu(z) = relu(z - c) +
// c for all but 0.135 % of values; and max(z, 0) = max(z - c, -c) + c for all of them, so an
// activation whose lower limit is moved to -c as well keeps the network exactly as it was.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// Three sigma, as in the paper and in AIMET.
constexpr double kAbsorptionDeviations = 3.0;

// Returns (bias - c, next_bias + sum over (inputs, kernel) of next_weight * c, c).
//   bias: (channels,) of the first layer; bn_weight (gamma), bn_bias (beta): (channels,), of the
//   batch normalization
//     folded into it, both divided by the layer's equalization scale.
//   next_weight, next_bias, groups, transposed: the layer behind the activation, as torch.nn stores
//   it (see Layer);
//     a Linear behind a flatten may have a multiple of `channels` columns.
//   rectified: a rectifier stands between the layers: c as above, and no more than `upper_limit`
//   (channels,) where
//     the activation has one. Otherwise nothing does, and c = beta.
// c is zero where it would not be finite. Computed in float64, rounded once to the dtype of each
// result; c has the dtype of `bias`. Exact only where every kernel element of the next layer reads
// a real input: not with zero padding, and so not for transposed convolutions with a kernel of more
// than one element: NotImplementedError. ValueError: shapes do not fit.
AIMET_API std::tuple<at::Tensor, at::Tensor, at::Tensor> absorb_high_bias(
    const at::Tensor& bias, const at::Tensor& bn_weight, const at::Tensor& bn_bias,
    const std::optional<at::Tensor>& upper_limit, const at::Tensor& next_weight,
    const at::Tensor& next_bias, int64_t groups, bool transposed, bool rectified);

}  // namespace aimet

// Batch normalization merged into its neighbor, for all channels at once.
// Source: Jacob et al. 2018 (arXiv 1712.05877), section 3.2; Nagel et al. 2019 (arXiv 1906.04721),
// section 3.
//
// In evaluation mode batch normalization is x * scale + shift for each channel, with
//   scale = gamma / sqrt(running_var + eps),   shift = beta - running_mean * scale.
// All functions compute in float64 and round once to the dtype of the result; they are
// differentiable, keep no reference to their arguments, and run on every device. NaN, infinite or
// negative statistics give what batch normalization itself would give with them.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// The scale and the shift above, in the dtype of `running_var`.
//   running_mean, running_var: (channels,); bn_weight (gamma), bn_bias (beta): (channels,), absent:
//   1 and 0. eps: >= 0.
// ValueError: shapes differ, eps is negative or NaN. TypeError: an argument is not floating-point.
AIMET_API std::tuple<at::Tensor, at::Tensor> merge_batch_norm_statistics(
    const at::Tensor& running_mean, const at::Tensor& running_var,
    const std::optional<at::Tensor>& bn_weight, const std::optional<at::Tensor>& bn_bias,
    double eps);

// Weight and bias of a layer that does its own work and that of a batch normalization beside it.
//   weight, bias, groups, transposed: as torch.nn stores them (see Layer); an absent bias is zero.
//   fold_into_next = false: the batch normalization follows the layer (channels = outputs):
//     weight * scale[out],  bias * scale + shift.
//   fold_into_next = true: it comes first (channels = inputs):
//     weight * scale[in],   bias + sum over (in, kernel) of weight * shift[in].
//     Exact only where every kernel element reads a real input, so not with zero padding; and not
//     for a transposed convolution, whose border outputs see fewer kernel elements:
//     NotImplementedError.
// Returns (weight, bias) in the dtype of `weight`.
AIMET_API std::tuple<at::Tensor, at::Tensor> fold_batch_norm(
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
    const at::Tensor& running_var, const std::optional<at::Tensor>& bn_weight,
    const std::optional<at::Tensor>& bn_bias, double eps, int64_t groups, bool transposed,
    bool fold_into_next);

}  // namespace aimet

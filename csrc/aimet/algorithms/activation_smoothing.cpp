#include "aimet/algorithms/activation_smoothing.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

namespace aimet {

at::Tensor smoothing_scale(const at::Tensor& activation_range, at::TensorList weights, double alpha,
                           double max_scale) {
  const char* op = "smoothing_scale";
  TORCH_CHECK_TYPE(activation_range.is_floating_point(), op,
                   ": `activation_range` must have a floating-point dtype, got ",
                   activation_range.scalar_type());
  TORCH_CHECK_VALUE(activation_range.dim() == 1, op,
                    ": `activation_range` must have one number a channel, got shape ",
                    activation_range.sizes());
  TORCH_CHECK_VALUE(!weights.empty(), op, ": `weights` is empty: no layer reads the activation");
  TORCH_CHECK_VALUE(alpha >= 0 && alpha <= 1, op, ": `alpha` must lie in [0, 1], got ", alpha);
  TORCH_CHECK_VALUE(max_scale >= 1, op, ": `max_scale` must be at least 1, got ", max_scale);
  const int64_t channels = activation_range.size(0);
  const at::Tensor range = activation_range.to(at::kDouble).abs();
  at::Tensor weight_range = at::zeros({channels}, range.options());
  for (const at::Tensor& weight : weights) {
    TORCH_CHECK_TYPE(weight.is_floating_point(), op,
                     ": `weights` must have floating-point dtypes, got ", weight.scalar_type());
    const bool is_depthwise = weight.dim() > 2 && weight.size(1) == 1 && weight.size(0) == channels;
    TORCH_CHECK_VALUE(weight.dim() >= 2 && (is_depthwise || weight.size(1) == channels), op,
                      ": `weights` must have the ", channels,
                      " channels of `activation_range` in dimension 1, got shape ", weight.sizes());
    const at::Tensor by_channel =
        (is_depthwise ? weight : weight.transpose(0, 1)).to(at::kDouble).abs().reshape(
            {channels, -1});
    if (by_channel.numel() > 0) weight_range = at::maximum(weight_range, by_channel.amax({1}));
  }
  const at::Tensor is_usable =
      range.isfinite() & weight_range.isfinite() & (range > 0) & (weight_range > 0);
  const at::Tensor logarithm = alpha * at::log(at::where(is_usable, range, 1.0)) -
                               (1 - alpha) * at::log(at::where(is_usable, weight_range, 1.0));
  const at::Tensor center =
      at::where(is_usable, logarithm, 0.0).sum() / is_usable.sum().clamp_min(1);
  const at::Tensor scale = at::exp(logarithm - center).clamp(1 / max_scale, max_scale);
  return at::where(is_usable, scale, 1.0);
}

}  // namespace aimet

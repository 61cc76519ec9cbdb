#include "aimet/algorithms/batch_norm_folding.h"

#include "aimet/algorithms/layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cmath>

namespace aimet {
namespace {

struct ScaleShift {
  at::Tensor scale;  // float64 (channels,)
  at::Tensor shift;  // float64 (channels,)
};

void check_statistic(const char* op, const char* name, const at::Tensor& statistic,
                     const c10::SymInt& channels) {
  TORCH_CHECK_TYPE(statistic.is_floating_point(), op, ": `", name,
                   "` must have a floating-point dtype, got ", statistic.scalar_type());
  TORCH_CHECK_VALUE(statistic.dim() == 1 && statistic.sym_size(0) == channels, op, ": `", name,
                    "` must have shape (", channels, "), one number a channel, got ",
                    statistic.sym_sizes());
}

ScaleShift scale_and_shift(const char* op, const at::Tensor& running_mean,
                           const at::Tensor& running_var,
                           const std::optional<at::Tensor>& bn_weight,
                           const std::optional<at::Tensor>& bn_bias, double eps,
                           const c10::SymInt& channels) {
  check_statistic(op, "running_mean", running_mean, channels);
  check_statistic(op, "running_var", running_var, channels);
  if (bn_weight) check_statistic(op, "bn_weight", *bn_weight, channels);
  if (bn_bias) check_statistic(op, "bn_bias", *bn_bias, channels);
  TORCH_CHECK_VALUE(eps >= 0, op, ": `eps` must not be negative, got ", eps);

  at::Tensor scale = (running_var.to(at::kDouble) + eps).rsqrt();
  if (bn_weight) scale = bn_weight->to(at::kDouble) * scale;
  at::Tensor shift = -running_mean.to(at::kDouble) * scale;
  if (bn_bias) shift = bn_bias->to(at::kDouble) + shift;
  return {scale, shift};
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> merge_batch_norm_statistics(
    const at::Tensor& running_mean, const at::Tensor& running_var,
    const std::optional<at::Tensor>& bn_weight, const std::optional<at::Tensor>& bn_bias,
    double eps) {
  const auto [scale, shift] =
      scale_and_shift("merge_batch_norm_statistics", running_mean, running_var, bn_weight, bn_bias,
                      eps, running_var.sym_numel());
  return {scale.to(running_var.scalar_type()), shift.to(running_var.scalar_type())};
}

std::tuple<at::Tensor, at::Tensor> fold_batch_norm(
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
    const at::Tensor& running_var, const std::optional<at::Tensor>& bn_weight,
    const std::optional<at::Tensor>& bn_bias, double eps, int64_t groups, bool transposed,
    bool fold_into_next) {
  const char* op = "fold_batch_norm";
  const Layer layer{weight, bias.value_or(at::Tensor()), groups, transposed};
  check_layer(op, "weight", layer);
  TORCH_CHECK_NOT_IMPLEMENTED(
      !(transposed && fold_into_next), op,
      ": a batch normalization before a transposed convolution has no exact fold (border "
      "outputs see fewer kernel elements); leave it where it is");
  const c10::SymInt channels =
      fold_into_next ? input_channel_count(layer) : output_channel_count(layer);
  const auto [scale, shift] =
      scale_and_shift(op, running_mean, running_var, bn_weight, bn_bias, eps, channels);

  const at::Tensor grouped = grouped_weight(layer).to(at::kDouble);  // (groups, out, in, kernel)
  at::Tensor folded_weight;
  at::Tensor folded_bias;
  if (fold_into_next) {
    folded_weight = grouped * along_inputs(scale, layer);
    folded_bias = (grouped * along_inputs(shift, layer)).sum({2, 3}).flatten();  // (out,)
    if (bias) folded_bias = bias->to(at::kDouble) + folded_bias;
  } else {
    folded_weight = grouped * along_outputs(scale, layer);
    folded_bias = bias ? bias->to(at::kDouble) * scale + shift : shift;
  }
  return {ungrouped_weight(folded_weight, layer).to(weight.scalar_type()),
          folded_bias.to(weight.scalar_type())};
}

}  // namespace aimet

#include "aimet/algorithms/high_bias_absorption.h"

#include "aimet/algorithms/layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/where.h>
#include <c10/util/Exception.h>

namespace aimet {
namespace {

constexpr const char* kOp = "absorb_high_bias";

void check_channels(const char* name, const at::Tensor& vector, const c10::SymInt& channels) {
  TORCH_CHECK_TYPE(vector.is_floating_point(), kOp, ": `", name,
                   "` must have a floating-point dtype, got ", vector.scalar_type());
  TORCH_CHECK_VALUE(vector.dim() == 1 && vector.sym_size(0) == channels, kOp, ": `", name,
                    "` must have shape (", channels, "), one number a channel, got ",
                    vector.sym_sizes());
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> absorb_high_bias(
    const at::Tensor& bias, const at::Tensor& bn_weight, const at::Tensor& bn_bias,
    const std::optional<at::Tensor>& upper_limit, const at::Tensor& next_weight,
    const at::Tensor& next_bias, int64_t groups, bool transposed, bool rectified) {
  const c10::SymInt channels = bias.sym_numel();
  check_channels("bias", bias, channels);
  check_channels("bn_weight", bn_weight, channels);
  check_channels("bn_bias", bn_bias, channels);
  if (upper_limit) check_channels("upper_limit", *upper_limit, channels);
  const Layer next{next_weight, next_bias, groups, transposed};
  check_layer(kOp, "next_weight", next);
  const c10::SymInt inputs = input_channel_count(next);
  const bool is_flattened = next_weight.dim() == 2 && channels > 0 && inputs % channels == 0;
  TORCH_CHECK_VALUE(inputs == channels || is_flattened, kOp, ": `next_weight` has ", inputs,
                    " input channels, but `bias` has ", channels, " channels");
  const at::Tensor weight =
      grouped_weight(next, channels).to(at::kDouble);  // (groups, out, in, kernel)
  TORCH_CHECK_NOT_IMPLEMENTED(
      !transposed || weight.sym_size(3) == 1, kOp,
      ": border outputs of a transposed convolution see fewer kernel elements, so nothing "
      "can be absorbed into it exactly; leave this pair out");

  at::Tensor absorbed = bn_bias.to(at::kDouble);
  if (rectified)
    absorbed = (absorbed - kAbsorptionDeviations * bn_weight.to(at::kDouble).abs()).clamp_min(0.0);
  if (rectified && upper_limit) absorbed = at::minimum(absorbed, upper_limit->to(at::kDouble));
  absorbed = at::where(absorbed.isfinite(), absorbed, 0.0).to(bias.scalar_type());

  // From here on the rounded c: what one side loses the other gains.
  const at::Tensor c = absorbed.to(at::kDouble);
  const at::Tensor gained = (weight * along_inputs(c, next)).sum({2, 3}).flatten();  // (out,)
  return {(bias.to(at::kDouble) - c).to(bias.scalar_type()),
          (next_bias.to(at::kDouble) + gained).to(next_bias.scalar_type()), absorbed};
}

}  // namespace aimet

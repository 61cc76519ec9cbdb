#include "aimet/algorithms/bias_correction.h"

#include "aimet/algorithms/layer.h"

#include <ATen/TensorOperators.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/special_ndtr.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <limits>
#include <vector>

namespace aimet {
namespace {

constexpr const char* kMoments = "clipped_normal_moments";
constexpr const char* kAnalytic = "correct_bias_analytically";
constexpr const char* kSums = "add_channel_sums_";

void check_floating(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_TYPE(tensor.is_floating_point(), op, ": `", name,
                   "` must have a floating-point dtype, got ", tensor.scalar_type());
}

at::Tensor density(const at::Tensor& z) {
  static const double kNorm = 1.0 / std::sqrt(2.0 * 3.14159265358979323846);
  return at::exp(z * z * -0.5) * kNorm;
}

// z * density(z), which is 0 in the limit of infinite z.
at::Tensor tail(const at::Tensor& z) {
  return at::where(z.isinf(), 0.0, z * density(z));
}

// As float64 that broadcasts; an absent limit is infinite.
at::Tensor limit_or(const std::optional<at::Tensor>& limit, double otherwise,
                    const at::Tensor& like) {
  if (!limit) return at::zeros_like(like) + otherwise;
  return limit->to(at::kDouble) + at::zeros_like(like);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> clipped_normal_moments(const at::Tensor& mean,
                                                          const at::Tensor& deviation,
                                                          const std::optional<at::Tensor>& lower,
                                                          const std::optional<at::Tensor>& upper) {
  check_floating(kMoments, "mean", mean);
  check_floating(kMoments, "deviation", deviation);
  if (lower) check_floating(kMoments, "lower", *lower);
  if (upper) check_floating(kMoments, "upper", *upper);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const at::Tensor mu = mean.to(at::kDouble) + at::zeros_like(deviation, at::kDouble);
  const at::Tensor low = limit_or(lower, -kInfinity, mu);
  const at::Tensor high = limit_or(upper, kInfinity, mu);
  TORCH_CHECK_VALUE(!(low > high).any().item<bool>(), kMoments,
                    ": `lower` must not be above `upper`");

  // A constant is the limit of ever smaller deviations; its formulas divide by one.
  const at::Tensor sigma = deviation.to(at::kDouble).abs() + at::zeros_like(mu);
  const at::Tensor is_constant = sigma == 0.0;
  const at::Tensor s = at::where(is_constant, 1.0, sigma);
  const at::Tensor a = (low - mu) / s;
  const at::Tensor b = (high - mu) / s;
  const at::Tensor below = at::special_ndtr(a);
  const at::Tensor above = at::special_ndtr(-b);
  const at::Tensor inside = 1.0 - below - above;
  const at::Tensor edge = density(a) - density(b);

  // About the mean: y - mu is s z inside, low - mu below and high - mu above.
  const at::Tensor from_low = at::where(below > 0.0, (low - mu) * below, 0.0);
  const at::Tensor from_high = at::where(above > 0.0, (high - mu) * above, 0.0);
  const at::Tensor shift = s * edge + from_low + from_high;  // E[y] - mu
  const at::Tensor square =
      s * s * (inside + tail(a) - tail(b)) +
      at::where(below > 0.0, (low - mu) * from_low, 0.0) +
      at::where(above > 0.0, (high - mu) * from_high, 0.0);  // E[(y - mu)^2]
  const at::Tensor variance = (square - shift * shift).clamp_min(0.0);

  const at::Tensor clipped = at::clamp(mu, low, high);
  const at::Tensor result = at::where(is_constant, clipped, at::clamp(mu + shift, low, high));
  return {result.to(mean.scalar_type()),
          at::where(is_constant, 0.0, variance.sqrt()).to(mean.scalar_type())};
}

at::Tensor correct_bias_analytically(const at::Tensor& bias, const at::Tensor& weight,
                                     const at::Tensor& quantized_weight,
                                     const at::Tensor& expected_input, int64_t groups,
                                     bool transposed) {
  const Layer layer{weight, bias, groups, transposed};
  check_layer(kAnalytic, "weight", layer);
  TORCH_CHECK_VALUE(quantized_weight.sym_sizes() == weight.sym_sizes(), kAnalytic,
                    ": `quantized_weight` must have the shape ", weight.sym_sizes(),
                    " of `weight`, got ", quantized_weight.sym_sizes());
  check_floating(kAnalytic, "expected_input", expected_input);
  TORCH_CHECK_VALUE(expected_input.dim() == 1, kAnalytic,
                    ": `expected_input` must have one dimension, got shape ",
                    expected_input.sym_sizes());
  const c10::SymInt channels = expected_input.sym_size(0);
  const c10::SymInt inputs = input_channel_count(layer);
  const bool is_flattened = weight.dim() == 2 && channels > 0 && inputs % channels == 0;
  TORCH_CHECK_VALUE(inputs == channels || is_flattened, kAnalytic, ": `weight` has ", inputs,
                    " input channels, but `expected_input` has ", channels);
  const at::Tensor error = grouped_weight(
      {quantized_weight.to(at::kDouble) - weight.to(at::kDouble), {}, groups, transposed},
      channels);
  const at::Tensor shift =
      (error * along_inputs(expected_input.to(at::kDouble), layer)).sum({2, 3}).flatten();
  return (bias.to(at::kDouble) - shift).to(bias.scalar_type());
}

int64_t add_channel_sums_(const at::Tensor& sums, const at::Tensor& values, int64_t channel_axis) {
  check_floating(kSums, "values", values);
  TORCH_CHECK_TYPE(sums.scalar_type() == at::kDouble, kSums, ": `sums` must be float64, got ",
                   sums.scalar_type());
  const int64_t axis = at::maybe_wrap_dim(channel_axis, values.dim());
  const int64_t channels = values.dim() == 0 ? 1 : values.size(axis);
  TORCH_CHECK_VALUE(sums.dim() == 1 && sums.size(0) == channels, kSums, ": `sums` must have shape (",
                    channels, "), one number a channel, got ", sums.sizes());
  if (values.numel() == 0) return 0;
  std::vector<int64_t> others;
  for (int64_t d = 0; d < values.dim(); ++d) {
    if (d != axis) others.push_back(d);
  }
  sums.add_(others.empty() ? values.to(at::kDouble).reshape({channels})
                           : values.sum(others, /*keepdim=*/false, at::kDouble));
  return values.numel() / channels;
}

}  // namespace aimet

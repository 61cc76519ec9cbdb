// Bias correction: the mean error that quantization leaves in each output channel of a layer, taken
// out of its bias. Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.2 and appendix D.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// Mean and standard deviation of clip(x, lower, upper) for normal x ~ N(mean, deviation^2).
//   mean, deviation: any shapes that broadcast, floating point; the sign of `deviation` is ignored,
//   and 0 means a constant.
//   lower, upper: broadcast against them; absent or infinite: no limit. ReLU: lower 0; ReLU6: 0, 6.
// With a = (lower - mean) / deviation, b likewise, p the normal density and P its integral:
//   E[y]   = mean (P(b) - P(a)) + deviation (p(a) - p(b)) + lower P(a) + upper (1 - P(b)),
//   E[y^2] = (mean^2 + deviation^2) (P(b) - P(a)) + 2 mean deviation (p(a) - p(b))
//            + deviation^2 (a p(a) - b p(b)) + lower^2 P(a) + upper^2 (1 - P(b)).
// Computed in float64 about a limit or the mean, so that no digits cancel; rounded once to the dtype
// of `mean`. ValueError: a lower limit above its upper one.
AIMET_API std::tuple<at::Tensor, at::Tensor> clipped_normal_moments(
    const at::Tensor& mean, const at::Tensor& deviation, const std::optional<at::Tensor>& lower,
    const std::optional<at::Tensor>& upper);

// bias - sum over (inputs, kernel) of (quantized_weight - weight) * expected_input: the analytic
// correction. `expected_input`: (in,), the mean of each input channel. A Linear behind a flatten may
// have several columns per channel. Zero padding is not accounted for (as in the paper). Computed in
// float64, in the dtype of `bias`. ValueError: shapes do not fit.
AIMET_API at::Tensor correct_bias_analytically(const at::Tensor& bias, const at::Tensor& weight,
                                               const at::Tensor& quantized_weight,
                                               const at::Tensor& expected_input, int64_t groups,
                                               bool transposed);

// Adds the sum of `values` over all dimensions but `channel_axis` to `sums` (float64, (channels,)),
// and returns the number of values per channel: means of data that come in batches.
AIMET_API int64_t add_channel_sums_(const at::Tensor& sums, const at::Tensor& values,
                                    int64_t channel_axis);

}  // namespace aimet

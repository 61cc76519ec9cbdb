// What an integer-only target does behind its accumulators: fixed-point ratios and their rounding.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>
#include <tuple>

namespace aimet {

// Ratios as targets hold them: ratio = multiplier * 2^(shift - 31), 2^30 <= multiplier < 2^31.
//   ratio: floating-point, any shape: (input scale * weight scale / output scale).
// Returns (multiplier, shift), int32, shape of `ratio`; ratios below 2^-32 become (0, 0).
// ValueError: a ratio that is negative, NaN or at least 2^30 (not checked on other devices than the
// CPU until they are computed there). TypeError: not floating-point.
AIMET_API std::tuple<at::Tensor, at::Tensor> requantization_multiplier(const at::Tensor& ratio);

// clamp(round(accumulator * ratio) + zero_point, qmin, qmax), int32, in integer arithmetic only.
//   accumulator: an integer dtype, any shape.
//   multiplier, shift: int32, as requantization_multiplier returns them; broadcast against
//     `accumulator`, `shift` has the shape of `multiplier`.
//   rounding: "gemmlowp" (TensorFlow Lite, CMSIS-NN: rounded twice, ties away from zero), "single"
//     (the same with single rounding: ties upwards), or "half_even" (once, ties to even, as
//     QuantizeLinear rounds).
// ValueError: shapes, the grid, a multiplier or a shift outside of the above, or an unknown
// rounding. TypeError: dtypes. Not differentiable.
AIMET_API at::Tensor requantize(const at::Tensor& accumulator, const at::Tensor& multiplier,
                                const at::Tensor& shift, std::int64_t zero_point, std::int64_t qmin,
                                std::int64_t qmax, std::string_view rounding = "gemmlowp");

// The sum of two tensors of integer codes on grids of their own, int32 codes of a third grid: both
// are brought to a common grid of 2^left_shift steps to twice the coarser one's, added, and
// requantized.
//   input, other: integer dtypes; broadcast against each other.
//   scales: positive; zero points: the code of zero.
//   left_shift: 0 to 30; 20 for 8-bit codes and 15 for 16-bit ones leave room in 32 bits.
// ValueError: shapes, a scale, the grid, `left_shift` or an unknown rounding. TypeError: dtypes.
AIMET_API at::Tensor integer_add(const at::Tensor& input, const at::Tensor& other,
                                 double input_scale, std::int64_t input_zero_point,
                                 double other_scale, std::int64_t other_zero_point,
                                 double output_scale, std::int64_t output_zero_point,
                                 std::int64_t qmin, std::int64_t qmax,
                                 std::string_view rounding = "gemmlowp",
                                 std::int64_t left_shift = 20);

}  // namespace aimet

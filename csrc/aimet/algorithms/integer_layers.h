// The accumulators of integer-only layers, exactly: what a target sums up before it requantizes
// (ops/requantization.h), and how large that can become.
//
// Integers are summed as float64, in which every sum below 2^53 is exact in whatever order it is
// added; larger ones are refused. Results are int64, so that an overflow of 32 bits can be seen:
// `.to(at::kInt)` is what a 32-bit register holds (two's complement; where the final sum fits, no
// intermediate overflow matters to it).
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace aimet {

// sum (input - input_zero_point) * (weight - weight_zero_point) + bias. The border is padded with
// the input's zero point.
//   input: integer dtype, (N, in, *size) with one to three dimensions of size.
//   weight: integer dtype, (out, in / groups, *kernel), transposed: (in, out / groups, *kernel).
//   bias: integer dtype, (out), in steps of input scale * weight scale; absent: 0.
//   weight_zero_point: integer dtype, broadcasts against `weight`.
//   stride, dilation: one entry for each dimension of size.
//   padding: two, all that come before and then all that come after (the order of ONNX); what they
//     cut off, where `transposed`.
//   output_padding: transposed only, one for each dimension of size.
// Returns int64, (N, out, *size). ValueError: shapes, or sums that could reach 2^53. TypeError:
// dtypes.
AIMET_API at::Tensor integer_convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    std::int64_t input_zero_point, const at::Tensor& weight_zero_point, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, std::int64_t groups = 1,
    bool transposed = false, at::IntArrayRef output_padding = {});

// (input - input_zero_point) @ (other - other_zero_point) + bias, with matmul's broadcasting.
//   input, other: integer dtypes, of one dimension or more.
//   other_zero_point: integer dtype, broadcasts against `other`.
//   bias: integer dtype, broadcasts against the product; absent: 0.
// Returns int64. Errors as above.
AIMET_API at::Tensor integer_matmul(const at::Tensor& input, const at::Tensor& other,
                                    const std::optional<at::Tensor>& bias,
                                    std::int64_t input_zero_point,
                                    const at::Tensor& other_zero_point);

// The least and the largest value that the accumulator of each output channel can reach, whatever
// the input holds: sum of min and max of weight * input_min and weight * input_max, and the bias.
//   weight: integer dtype, (out, *), its zero point subtracted.
//   bias: integer dtype, (out); absent: 0.
//   input_min, input_max: of (input - zero point): qmin - zero point, qmax - zero point.
// Returns two int64 tensors (out). With input_min <= 0 <= input_max, partial sums that start with
// the bias lie within them, too, in whatever order they grow. ValueError: shapes, input_min >
// input_max. TypeError: dtypes.
AIMET_API std::tuple<at::Tensor, at::Tensor> accumulator_limits(
    const at::Tensor& weight, const std::optional<at::Tensor>& bias, std::int64_t input_min,
    std::int64_t input_max);

}  // namespace aimet

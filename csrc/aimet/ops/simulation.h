// What a simulated layer does with a tensor that nobody else holds.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace aimet {

// `input` becomes quantize_dequantize(clamp(input, clamp_min, clamp_max)) on the grid
// encoding_from_range(min, max), in place: one pass over memory instead of two or three, and no
// second tensor. The same bits as those operators one after the other.
//   input: floating, any strides; keeps nothing for backward.
//   min, max: floating, of one shape that broadcasts against `input`; one element is fast.
// ValueError: shapes, an empty grid, or a range without a scale (NaN). TypeError: not floating.
// NotImplementedError: a gradient would be needed.
AIMET_API void quantize_dequantize_by_range_(at::Tensor input, const at::Tensor& min,
                                             const at::Tensor& max, std::int64_t qmin,
                                             std::int64_t qmax, bool symmetric,
                                             std::optional<double> clamp_min = std::nullopt,
                                             std::optional<double> clamp_max = std::nullopt);

// The same with scale and offset given: for ranges that are learned in another form.
//   scale, offset: floating, each broadcasts against `input`; one element is fast.
AIMET_API void quantize_dequantize_(at::Tensor input, const at::Tensor& scale,
                                    const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax,
                                    std::optional<double> clamp_min = std::nullopt,
                                    std::optional<double> clamp_max = std::nullopt);

// A number that changes when one of `tensors` does: a hash of every element of those of up to 1024,
// and of 256 elements spread evenly over longer ones. For caches of what was computed from them: writes that go around the
// version counter (`tensor.data`) are seen unless they spare all of those elements.
AIMET_API std::int64_t fingerprint(at::TensorList tensors);

}  // namespace aimet

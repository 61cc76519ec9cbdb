// One entry of an encodings file as an operator on one tensor.
#pragma once

#include "aimet/core/float_format.h"
#include "aimet/encodings/document.h"

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace aimet::simulation {

// The arguments of quantize_dequantize, or of quantize_dequantize_float for floating-point formats.
struct FakeQuantize {
  std::optional<core::FloatFormat> format;
  at::Tensor scale;
  at::Tensor offset;  // none of formats
  std::int64_t qmin = 0;
  std::int64_t qmax = 0;
  std::vector<std::int64_t> block_size;  // empty without blocks

  at::Tensor operator()(const at::Tensor& input) const;
};

// Along which axes of a tensor scales vary, where the file does not tell (versions 0.x and 1.0.0).
struct ScaleAxes {
  std::int64_t channel = 0;
  std::int64_t block = 1;
};

// Why an entry cannot be simulated, else "".
std::string find_obstacle(const encodings::TensorEncoding& encoding);

// `sizes`: of the tensor, none for activations, whose sizes are not known. Empty where nothing is to
// be done (32-bit floats). Raises c10::ValueError where the scales do not fit.
std::optional<FakeQuantize> make_fake_quantize(const encodings::TensorEncoding& encoding,
                                               std::optional<c10::IntArrayRef> sizes,
                                               const ScaleAxes& axes);

}  // namespace aimet::simulation

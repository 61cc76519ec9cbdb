// Choosing between two tensors element by element at random: QDrop's dropping of quantization.
// Formula: core/random_choice.h.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace aimet {

// `first` with `probability`, else `second`; both of one shape and floating-point dtype. The choice
// follows from `seed` and the position in row-major order alone. Differentiable: the gradient goes
// to the one that was chosen, and backward keeps no mask. TypeError, ValueError: dtypes or shapes
// differ, a probability outside [0, 1].
// Source: Wei et al. 2022 (QDrop, arXiv 2203.05740), eq. 8.
AIMET_API at::Tensor choose_randomly(const at::Tensor& first, const at::Tensor& second,
                                     double probability, std::int64_t seed);

}  // namespace aimet

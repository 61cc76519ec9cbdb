// Checks that the kernels of AdaRound's operators share.
#pragma once

#include <ATen/core/Tensor.h>

namespace aimet::ops {

// `weight` is float32 or float64, `alpha` of its shape and dtype, scale and offset fit.
void check_adaround(const char* op, const at::Tensor& weight, const at::Tensor& alpha,
                    const at::Tensor& scale, const at::Tensor& offset);

}  // namespace aimet::ops

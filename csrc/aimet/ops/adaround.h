// The operators of AdaRound for a training loop of one's own. Formulas: core/adaround.h.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace aimet {

// Every function: `weight` float32 or float64; `alpha` same shape and dtype; `scale` and `offset`
// broadcast against it. TypeError for another dtype, ValueError for shapes that do not fit.

// alpha with h(alpha) = the fraction of weight / scale: soft weights are then the weights
// themselves.
AIMET_API at::Tensor adaround_alpha(const at::Tensor& weight, const at::Tensor& scale);

// (clamp(floor(weight / scale) + h(alpha) - offset, qmin, qmax) + offset) * scale, differentiable
// in alpha. hard: h = 1 where alpha >= 0, else 0.
AIMET_API at::Tensor adaround_quantize_dequantize(const at::Tensor& weight, const at::Tensor& alpha,
                                                  const at::Tensor& scale, const at::Tensor& offset,
                                                  int64_t qmin, int64_t qmax, bool hard);

// Sum of 1 - |2 h(alpha) - 1|^beta, differentiable in alpha.
AIMET_API at::Tensor adaround_regularizer(const at::Tensor& alpha, double beta);

// The exponent of iteration `iteration` of `iterations`; 0 during the warm start.
AIMET_API double adaround_beta(int64_t iteration, int64_t iterations, double first, double last,
                               double warm_start);

// One step of Adam on alpha, in place, in one pass: from the gradient of the loss with respect to
// the soft weight to that of alpha, plus reg_param times the gradient of the regularizer (beta 0:
// none), to both moments and alpha. step counts from 1.
AIMET_API void adaround_step_(const at::Tensor& alpha, const at::Tensor& exp_avg,
                              const at::Tensor& exp_avg_sq, const at::Tensor& grad,
                              const at::Tensor& weight, const at::Tensor& scale,
                              const at::Tensor& offset, int64_t qmin, int64_t qmax, double beta,
                              double reg_param, double learning_rate, int64_t step);

}  // namespace aimet

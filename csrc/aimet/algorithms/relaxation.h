// AdaRound's relaxation of one layer: Adam on alpha, the whole loop in C++.
//
// Source: Nagel et al. 2020 (AdaRound, arXiv 2004.10568), eq. 21 to 25.
#pragma once

#include "aimet/algorithms/layer_moments.h"
#include "aimet/algorithms/rounding.h"
#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>

namespace aimet {

struct RelaxationOptions {
  int64_t iterations = 10000;
  double learning_rate = 1e-3;
  double reg_param = 0.01;
  double first_beta = 20;
  double last_beta = 2;
  double warm_start = 0.2;
};

// Hard codes (groups, o, d), float64, for the loss e H e^T summed over rows, which is the mean over
// positions of the squared error summed over channels. Arguments as in optimize_rounding(). The
// same bits with any number of threads.
AIMET_API at::Tensor relax_rounding(const RoundingProblem& problem, const at::Tensor& scale,
                                    const at::Tensor& offset, int64_t qmin, int64_t qmax,
                                    const RelaxationOptions& options);

// Samples of what enters a layer and should leave it.
struct LayerSamples {
  at::Tensor input;   // (N, C, *size), or (N, *, C) for Linear
  at::Tensor output;  // wanted, before the activation
  double activation_min = -std::numeric_limits<double>::infinity();  // clamp behind the layer
  double activation_max = std::numeric_limits<double>::infinity();
};

// The same with mini-batches and the activation in the loss |act(W x + b) - act(y)|^2.
//   weight, scale, offset: in the shape of the layer's weight; bias: (out,) or undefined.
//   batch_size samples a step, chosen with `seed`. Returns hard codes in the shape of the weight.
AIMET_API at::Tensor relax_rounding_on_samples(const LayerSamples& samples,
                                               const at::Tensor& weight, const at::Tensor& bias,
                                               const at::Tensor& scale, const at::Tensor& offset,
                                               int64_t qmin, int64_t qmax,
                                               const LayerGeometry& geometry,
                                               at::IntArrayRef output_padding, int64_t batch_size,
                                               int64_t seed, const RelaxationOptions& options);

}  // namespace aimet

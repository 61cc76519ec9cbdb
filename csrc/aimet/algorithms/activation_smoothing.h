// Activation equalization: a scale per channel moves the spread of an activation's channels into the
// weights that read it, where each output channel has a step of its own.
// Source: Xiao et al. 2022, SmoothQuant (arXiv 2211.10438), equation 4.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

namespace aimet {

// s = activation^alpha / w^(1 - alpha) for each channel, divided by its geometric mean, where w is
// the largest absolute weight that reads the channel.
//   activation_range: (channels,), largest absolute value of each channel of the activation.
//   weights: of the layers that read it, as torch.nn stores them, channels in dimension 1
//   ((out, in, *kernel)); depthwise layers, (channels, 1, *kernel), count in dimension 0.
//   alpha: 0 (all difficulty stays with the activation) to 1 (all of it moves to the weights).
//   max_scale: scales stay within [1 / max_scale, max_scale].
// Dividing the activation and multiplying the weights by s changes nothing in exact arithmetic.
// Channels with a range of zero, NaN or infinity keep 1. float64.
// TypeError: not floating point. ValueError: shapes do not fit, or an option is out of range.
AIMET_API at::Tensor smoothing_scale(const at::Tensor& activation_range, at::TensorList weights,
                                     double alpha, double max_scale);

}  // namespace aimet

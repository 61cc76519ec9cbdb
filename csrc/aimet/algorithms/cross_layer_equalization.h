// Cross-layer equalization: the channels between two layers are rescaled so that the weights of
// both use their quantization grid equally well, and the network computes what it did before.
// Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1.
//
// A *chain* is a run of layers l_0 .. l_n that follow each other directly or with an activation f
// between them for which f(x / s) = f(x) / s holds channel by channel. All layers but the first and
// the last are depthwise (groups = inputs = outputs), so that one channel is one path through the
// whole chain: a pair (n = 1), the triplet convolution - depthwise - convolution (n = 2), and
// longer ones alike. With r_k the largest |weight| of that channel in l_k (of output channels for
// the first layer, input channels for the last) and g the geometric mean of r_0 .. r_n, the outputs
// of l_k are divided by s_k = r_0 * .. * r_k / g^(k+1) and the inputs of l_(k+1) multiplied by it;
// every range of the channel is then g. For n = 1 that is s = sqrt(r_0 / r_1).
//
// Where chains share layers, one changes the ranges of the next; all chains of a network are
// equalized in turn until nothing moves. This is Osborne's matrix balancing in the maximum norm,
// which converges (Schulman and Sinclair 2015, arXiv 1504.03026, bound the rate of a variant). Only
// the ranges take part in the sweeps: the weights are multiplied once, by the product of all steps,
// in float64, and rounded once.
#pragma once

#include "aimet/algorithms/layer.h"
#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace aimet {

struct EqualizationOptions {
  // Stop after this many sweeps over all chains (one sweep is what AIMET does) ...
  int64_t max_sweeps = 50;
  // ... or after a sweep that changed no scale by a factor of more than 1 + tolerance.
  double tolerance = 1e-3;
  // Scales stay within [1 / max_scale, max_scale]. A channel whose weights are nearly zero would
  // otherwise hand its bias, divided by nearly zero, to the activations (and overflow half
  // precision).
  double max_scale = 1024.0;
};

struct EqualizationResult {
  // For each chain in turn, for each of its layers but the last: s_k, float64 (channels,). Positive
  // and finite.
  std::vector<at::Tensor> scales;
  int64_t sweep_count = 0;
};

// Equalizes `layers` in place. `chains` holds indices into `layers`.
// A channel with a range of zero, NaN or infinity anywhere in its chain keeps its scale; NaN and
// infinite weights stay what they are. Weights and biases may have any floating-point dtype; each
// layer keeps its own. ValueError (before anything is changed): a chain is shorter than two layers
// or names a layer that does not exist; a layer in the middle of a chain is not depthwise; channel
// counts of neighbors differ (a Linear may have a multiple, behind a flatten); the outputs or the
// inputs of a layer belong to two chains; two layers share one weight, or one has no elements; an
// option is out of range. NotImplementedError: tensors without data (meta).
AIMET_API EqualizationResult equalize_cross_layers_(const std::vector<Layer>& layers,
                                                    const std::vector<std::vector<int64_t>>& chains,
                                                    const EqualizationOptions& options = {});

}  // namespace aimet

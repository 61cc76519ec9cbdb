// Second moments of what enters and what should leave a layer. They hold all that the squared error
// of the layer depends on, in memory that does not grow with the data:
//
//   E |W x + b - y|^2 = tr(W H W^T) - 2 tr(W C^T) + ... with H = E[x x^T] and C = E[y x^T].
//
// x: the inputs that one output position of the layer reads (its column after unfolding), in the
// order of the weight's elements; y: the outputs that are wanted there, for instance those of the
// layer before quantization, W0 x0; then C = W0 E[x0 x^T].
//
// Source: Nagel et al. 2020 (AdaRound, arXiv 2004.10568), section 3.2: the layer's error as a
// quadratic form; Frantar and Alistarh 2022 (OBQ, arXiv 2208.11580), section 3.
#pragma once

#include "aimet/export.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace aimet {

// How the positions of a layer read its input. Linear: no kernel dimensions.
struct LayerGeometry {
  std::vector<int64_t> kernel_size = {};
  std::vector<int64_t> stride = {};
  std::vector<int64_t> padding =
      {};  // zeros in front of each dimension; behind: what the output asks
  std::vector<int64_t> dilation = {};
  int64_t groups = 1;
  bool is_transposed = false;
};

// The input of each output position: (groups, inputs / groups * kernel elements, positions), where
// positions are those of the first sample, of the second, and so on.
//   input: (N, C, *size), or (*, C) for Linear; output_size: (*size of the output).
AIMET_API at::Tensor unfold_layer_input(const at::Tensor& input, const LayerGeometry& geometry,
                                        at::IntArrayRef output_size);

// Sums over everything given so far; float64, on the CPU. d = inputs of one output, o = outputs of
// one group.
struct LayerMoments {
  at::Tensor gram;        // (groups, d, d): sum of w x x^T
  at::Tensor cross;       // (groups, o, d): sum of w y x^T
  at::Tensor input_sum;   // (groups, d): sum of w x
  at::Tensor output_sum;  // (groups, o): sum of w y
  at::Tensor total;       // (groups): sum of w
};

// Adds a batch, in place.
//   input: what the layer gets, floating-point. output: what it should give, (N, out, *size) or
//   (*, out).
//   importance: w >= 0 of each position, (N, out, *size); only where each group has one output
//   (depthwise); 1 without.
// Products are formed in float32 over blocks of at most 1,024 positions and added up in float64, in
// an order that depends on the shapes alone: the same bits with any number of threads.
// TypeError: not floating-point. ValueError: shapes do not fit.
AIMET_API void accumulate_layer_moments_(LayerMoments& moments, const at::Tensor& input,
                                         const at::Tensor& output, const LayerGeometry& geometry,
                                         const std::optional<at::Tensor>& importance);

}  // namespace aimet

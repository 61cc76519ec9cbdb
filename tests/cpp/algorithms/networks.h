// Layers and what they compute, for the tests of this folder.
#pragma once

#include "aimet/algorithms/layer.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose1d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>

#include <optional>
#include <vector>

namespace aimet::test {

// Once for the program: random weights are the same in every run.
inline const bool kIsSeeded = (at::manual_seed(0), true);

inline at::Tensor vector_of(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

inline int64_t outputs_of(const Layer& layer) {
  return output_channel_count(layer).expect_int();
}
inline int64_t inputs_of(const Layer& layer) {
  return input_channel_count(layer).expect_int();
}

// Stride 1 and no padding.
inline at::Tensor run(const Layer& layer, const at::Tensor& input) {
  const std::optional<at::Tensor> bias =
      layer.bias.defined() ? std::optional<at::Tensor>(layer.bias) : std::nullopt;
  const at::Tensor& weight = layer.weight;
  const int64_t spatial = weight.dim() - 2;
  const std::vector<int64_t> ones(spatial, 1);
  const std::vector<int64_t> zeros(spatial, 0);
  if (spatial == 0) return at::linear(input, weight, bias);
  if (layer.is_transposed) {
    if (spatial == 1) {
      return at::conv_transpose1d(input, weight, bias, ones, zeros, zeros, layer.groups, ones);
    }
    if (spatial == 2) {
      return at::conv_transpose2d(input, weight, bias, ones, zeros, zeros, layer.groups, ones);
    }
    return at::conv_transpose3d(input, weight, bias, ones, zeros, zeros, layer.groups, ones);
  }
  if (spatial == 1) return at::conv1d(input, weight, bias, ones, zeros, ones, layer.groups);
  if (spatial == 2) return at::conv2d(input, weight, bias, ones, zeros, ones, layer.groups);
  return at::conv3d(input, weight, bias, ones, zeros, ones, layer.groups);
}

// A random layer with 4 inputs a group and 6 outputs a group, in float64.
inline Layer random_layer(int64_t spatial, int64_t groups, bool transposed, bool has_bias) {
  const std::vector<int64_t> kernel(spatial, 3);
  std::vector<int64_t> shape =
      transposed ? std::vector<int64_t>{4 * groups, 6} : std::vector<int64_t>{6 * groups, 4};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return {at::randn(shape, at::kDouble),
          has_bias ? at::randn({6 * groups}, at::kDouble) : at::Tensor(), groups, transposed};
}

inline at::Tensor random_input(const Layer& layer) {
  std::vector<int64_t> shape = {2, inputs_of(layer)};
  for (int64_t dim = 2; dim < layer.weight.dim(); ++dim) shape.push_back(5);
  return at::randn(shape, at::kDouble);
}

}  // namespace aimet::test

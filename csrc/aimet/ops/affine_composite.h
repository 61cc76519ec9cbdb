// The affine formulas of docs/numerics.md in ATen operations: for devices without kernels of ours,
// and for gradients that are needed too rarely to deserve a kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

namespace aimet::ops {

// Every dimension split into (number of parameters, elements that share one), aligned to the right
// of `sizes`. Serves broadcasting and blocks alike.
std::vector<c10::SymInt> blocked_sizes(c10::SymIntArrayRef sizes,
                                       c10::SymIntArrayRef parameter_sizes);

// The dimensions of such a split tensor whose elements share a parameter.
std::vector<std::int64_t> shared_dims(std::int64_t input_dim, std::int64_t parameter_dim);

// The elements of `input` grouped by the parameter that they use: (parameters, elements that share
// one).
at::Tensor by_parameter(const at::Tensor& input, c10::SymIntArrayRef parameter_sizes);

// `parameter` in a shape that broadcasts against `input`: as it is, or with every block written
// out.
at::Tensor broadcastable(const at::Tensor& parameter, const at::Tensor& input,
                         c10::SymIntArrayRef parameter_sizes, at::OptionalIntArrayRef block_size);

// The reverse for gradients: `values` (of the shape of the input) summed to `parameter_sizes`.
at::Tensor sum_to_blocks(const at::Tensor& values, c10::SymIntArrayRef parameter_sizes);

// float64 for float64 input, else float32.
at::ScalarType compute_type_of(const at::Tensor& input);

struct Affine {
  at::Tensor input;   // compute type
  at::Tensor scale;   // compute type, broadcastable
  at::Tensor offset;  // compute type, broadcastable
};
Affine affine_of(const at::Tensor& input, const at::Tensor& scale, const at::Tensor& offset,
                 at::OptionalIntArrayRef block_size);

// `values` in the dtype and the memory order of `input`.
at::Tensor result_like(const at::Tensor& input, const at::Tensor& values);

// The mask of `inside` (bool), one bit an element in the memory order of `output`.
at::Tensor packed_mask(const at::Tensor& output, const at::Tensor& inside);

// Sums `values` to the shape and dtype of `parameter`, which belongs to a scale of `scale_sizes`.
at::Tensor gradient_of_parameter(const at::Tensor& values, const at::Tensor& parameter,
                                 c10::SymIntArrayRef scale_sizes);

}  // namespace aimet::ops

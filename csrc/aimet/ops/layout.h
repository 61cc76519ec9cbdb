// Turns any memory layout and any granularity into the (outer, channels, inner) of the CPU kernels.
#pragma once

#include "aimet/cpu/kernels.h"

#include <ATen/core/Tensor.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>
#include <vector>

namespace aimet::ops {

// `tensor` itself if its elements fill their memory without gaps or overlaps, in whatever order;
// else a copy that does. The strides are those of at::empty_like(tensor) in both cases.
at::Tensor dense(const at::Tensor& tensor);

// `tensor` with the sizes, strides and dtype of `reference`, copied only if they differ.
at::Tensor in_layout_of(const at::Tensor& tensor, const at::Tensor& reference);

// Memory order of a dense tensor and a parameter that broadcasts against it or tiles it with
// blocks. Most granularities need no more than three factors; others (scales on two separate axes)
// get one channel for each distinct position, and `parameter_of` says which parameter each channel
// uses.
struct ChannelLayout {
  cpu::Shape shape{1, 1, 1};
  std::vector<std::int64_t> parameter_of;  // empty: channel c uses parameter c
};

ChannelLayout channel_layout(const at::Tensor& dense_input, at::IntArrayRef parameter_sizes,
                             at::OptionalIntArrayRef block_size);

// `tensor`, contiguous and of `type`; itself if it is so already.
at::Tensor contiguous_as(const at::Tensor& tensor, at::ScalarType type);

// The parameter of every channel, shape (channels), of `type`. A parameter with one element serves
// all.
at::Tensor channel_values(const at::Tensor& parameter, const ChannelLayout& layout,
                          at::ScalarType type);

// The inverse: adds the channels' values (double) up to `parameter_sizes`.
at::Tensor sum_to_parameter(const at::Tensor& values, const ChannelLayout& layout,
                            at::IntArrayRef parameter_sizes);

// The sums of the partial sums (double) of each channel, in kPartialLanes lanes: the order of the
// CUDA kernel.
at::Tensor sum_partials(const at::Tensor& partials, const cpu::Reduction& reduction);

// Element type as the kernels call it, and the type they compute in.
cpu::ElementType element_type(const at::Tensor& tensor);
inline at::ScalarType compute_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace aimet::ops

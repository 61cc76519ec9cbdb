// How the kernels of microscaling see a tensor: (outer, length, inner) in memory order, blocks along
// the middle.
#pragma once

#include "aimet/core/arguments.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <vector>

namespace aimet::ops {

struct BlockLayout {
  std::int64_t outer;
  std::int64_t length;
  std::int64_t inner;
};

// `input` is dense. All other dimensions lie outside or inside of `axis`, whatever their order.
inline BlockLayout block_layout(const at::Tensor& input, std::int64_t axis) {
  const std::int64_t length = input.size(axis);
  std::int64_t inner = 1;
  for (std::int64_t dim = 0; dim < input.dim(); ++dim) {
    const bool is_inside = input.stride(dim) < input.stride(axis) ||
                           (input.stride(dim) == input.stride(axis) && dim > axis);
    if (dim != axis && is_inside) inner *= input.size(dim);
  }
  return {input.numel() == 0 ? 0 : input.numel() / (length * inner), length, inner};
}

// One value for each block, in the memory order of `input`; the kernels fill it front to back.
inline at::Tensor empty_block_values(const at::Tensor& input, std::int64_t axis,
                                     std::int64_t block_count, at::ScalarType type) {
  std::vector<std::int64_t> sizes = input.sizes().vec();
  std::vector<std::int64_t> strides = input.strides().vec();
  const std::int64_t length = sizes[axis];
  sizes[axis] = block_count;
  for (std::int64_t dim = 0; dim < input.dim(); ++dim) {
    const bool is_outside =
        dim != axis && (input.stride(dim) > input.stride(axis) ||
                        (input.stride(dim) == input.stride(axis) && dim < axis));
    if (is_outside && length > 0) strides[dim] = strides[dim] / length * block_count;
  }
  std::int64_t count = 1;
  for (const std::int64_t size : sizes) count *= size;
  return at::empty({count}, input.options().dtype(type)).as_strided(sizes, strides);
}

}  // namespace aimet::ops

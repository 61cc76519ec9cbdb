// The CPU kernels as the operators see them: raw pointers, counts, a table of functions per instruction set.
// No Tensor, no allocation, no exception, no threads: operators split the work and call from many threads.
//
// Every tensor is (outer, channels, inner) in memory order; channel c has its own scale and offset. The element
// type of data is `ElementType`; scales, limits and partial sums are of the compute type (double for kFloat64,
// else float) unless said otherwise. Results are the same bits for every instruction set and every split.
#pragma once

#include <cstdint>

#include "aimet/core/geometry.h"

namespace aimet::cpu {

using core::AffineMode;
using core::ElementType;
using core::kChunk;
using core::kShortRun;
using core::Reduction;
using core::Shape;

struct AffineArguments {
  const void* input;
  void* output;
  std::uint8_t* mask;  // one bit an element, 1 = inside the grid; null: not wanted. kQuantizeDequantize only
  const void* scale;   // (channels)
  const void* offset;  // (channels)
  Shape shape;
  double qmin;
  double qmax;
};

struct AffineBackwardArguments {
  const void* grad;
  const void* input;
  void* grad_input;  // null: not wanted
  const void* scale;
  const void* offset;
  double* partial_scale;   // (partial_count)
  double* partial_offset;  // (partial_count)
  Reduction reduction;
  double qmin;
  double qmax;
};

struct MinMaxArguments {
  const void* input;
  void* partial_min;  // (partial_count)
  void* partial_max;
  Reduction reduction;
};

struct KernelTable {
  const char* name;
  // Elements [begin, end) of the flattened tensor; `begin` is a multiple of kChunk (bytes of the mask are not shared).
  void (*affine)(ElementType, AffineMode, const AffineArguments&, std::int64_t begin, std::int64_t end);
  // output[i] = bit i of mask ? grad[i] : 0, for elements of 2, 4 or 8 bytes.
  void (*select_by_mask)(int element_size, const void* grad, const std::uint8_t* mask, void* output,
                         std::int64_t begin, std::int64_t end);
  // Tasks [begin, end) of the reduction.
  void (*affine_backward)(ElementType, const AffineBackwardArguments&, std::int64_t begin, std::int64_t end);
  // Minimum and maximum of the finite values; +inf/-inf where there is none.
  void (*min_max)(ElementType, const MinMaxArguments&, std::int64_t begin, std::int64_t end);
};

}  // namespace aimet::cpu

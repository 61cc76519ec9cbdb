// What kernels are given, on CPU and CUDA alike: raw pointers and the geometry of the tensors. The
// element type of data is told by an ElementType; scales, limits and partial results are of the
// compute type (double for kFloat64, else float) unless said otherwise.
#pragma once

#include "aimet/core/geometry.h"

#include <cstdint>

namespace aimet::core {

struct AffineArguments {
  const void* input;
  void* output;
  std::uint8_t*
      mask;  // one bit an element, 1 = inside the grid; null: not wanted. kQuantizeDequantize only
  const void* scale;   // (channels)
  const void* offset;  // (channels)
  Shape shape;
  double qmin;
  double qmax;
  bool is_streamed = false;  // output past the caches; the CPU's kernels alone look at it
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
  bool is_streamed = false;  // grad_input past the caches
};

struct MinMaxArguments {
  const void* input;
  void* partial_min;  // (partial_count)
  void* partial_max;
  Reduction reduction;
};

struct HistogramArguments {
  const void* input;
  const void*
      min;  // (channels), compute type; channels that observed nothing (min > max) count nothing
  const void* max;
  Shape shape;
  std::int64_t bin_count;
};

}  // namespace aimet::core

// What kernels are given, on CPU and CUDA alike: raw pointers and the geometry of the tensors. The
// element type of data is told by an ElementType; scales, limits and partial results are of the
// compute type (double for kFloat64, else float) unless said otherwise.
#pragma once

#include "aimet/core/float_format.h"
#include "aimet/core/geometry.h"

#include <cstdint>

namespace aimet::core {

// An activation function that clamps, applied to the input first.
struct ClampFirst {
  bool is_wanted = false;
  double low = 0;  // -infinity: no bound
  double high = 0;
};

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
  // The CPU's kernels alone know it. Elements outside the open interval have 0 in the mask.
  ClampFirst clamp = {};
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
  ClampFirst clamp = {};     // the CPU's kernels alone know it; `input` is what it was before
};

struct FloatFormatArguments {
  const void* input;
  void* output;
  std::uint8_t* mask;  // one bit an element, 1 = not beyond the largest number; null: not wanted
  const void* scale;   // (channels)
  Shape shape;
  FloatGrid grid;
  bool is_streamed = false;
};

struct FloatFormatBackwardArguments {
  const void* grad;
  const void* input;
  void* grad_input;  // null: not wanted
  const void* scale;
  double* partial_scale;  // (partial_count)
  Reduction reduction;
  FloatGrid grid;
  bool is_streamed = false;
};

// `input` is (outer, length, inner) in memory order; a block is up to `block` elements along the
// middle one. `scale` is (outer, blocks of the length, inner).
struct MicroscalingArguments {
  const void* input;
  void* output;
  std::uint8_t* mask;        // as above, and zero before; null: not wanted
  void* scale;               // of the compute type; null: not wanted
  const void* tensor_scale;  // one value: NVFP4; null: scales are powers of two
  std::int64_t outer;
  std::int64_t length;
  std::int64_t inner;
  std::int64_t block;
  FloatGrid grid;
  bool is_streamed = false;

  AIMET_HOST_DEVICE std::int64_t blocks() const { return (length + block - 1) / block; }
  // Blocks beside each other in memory are worked on together, kColumns of them at most.
  static constexpr std::int64_t kColumns = 128;
  AIMET_HOST_DEVICE std::int64_t tiles() const { return (inner + kColumns - 1) / kColumns; }
  AIMET_HOST_DEVICE std::int64_t units() const { return outer * blocks() * tiles(); }
};

struct MinMaxArguments {
  const void* input;
  void* partial_min;  // (partial_count)
  void* partial_max;
  Reduction reduction;
};

// Samples (rows) lie one after the other in memory; a task is up to kChunk elements of one of them.
struct QuantizationErrorArguments {
  static constexpr std::int64_t kSums = 4;
  const void* input;
  const void* grad;    // null: zeros
  const void* scale;   // (candidates, channels)
  const void* offset;  // (candidates, channels)
  Shape shape;
  std::int64_t row_length;
  std::int64_t candidates;
  const double* qmin;  // (candidates)
  const double* qmax;
  double* partial;  // (tasks, candidates, kSums): e^2, (g e)^2, g e, elements beyond the limits
  double* power;    // (tasks): input^2

  AIMET_HOST_DEVICE std::int64_t chunks_per_row() const {
    return (row_length + kChunk - 1) / kChunk;
  }
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

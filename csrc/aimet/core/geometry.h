// How kernels see tensors, and how reductions over them are cut: shared by CPU and CUDA, so that
// both add in the same order and give the same bits.
//
// Every tensor is (outer, channels, inner) in memory order; channel c has its own scale and offset.
#pragma once

#include "aimet/core/macros.h"

#include <cstdint>

namespace aimet::core {

enum class ElementType { kFloat32, kFloat64, kFloat16, kBFloat16 };
enum class AffineMode { kQuantize, kDequantize, kQuantizeDequantize };

struct Shape {
  std::int64_t outer;
  std::int64_t channels;
  std::int64_t inner;
};

// Elements per chunk: the unit of work, of buffers (L1-resident) and of reductions in float.
inline constexpr std::int64_t kChunk = 1024;
// Below this length a run of equal channels is too short to pay for a loop of its own.
inline constexpr std::int64_t kShortRun = 16;
// Sums within a chunk: lane j takes the elements j, j + 16, ..., and the lanes are added as a tree.
// The order does not depend on the width of the registers.
inline constexpr int kLanes = 16;
// Sums of the partial results of a channel: the same with 32 lanes.
inline constexpr int kPartialLanes = 32;

// How a reduction to one value per channel is cut into tasks. Fixed by the shape alone, so that
// sums do not depend on the number of threads.
//   rows: a task is up to kChunk elements of one run (outer, channel); one partial result per task.
//   columns (short runs): a task is up to kRowBlock outer rows x kChunk columns (channel, inner);
//   one partial result per column.
struct Reduction {
  static constexpr std::int64_t kRowBlock = 256;
  Shape shape;

  AIMET_HOST_DEVICE constexpr bool is_by_columns() const {
    return shape.inner < kShortRun && shape.outer >= kShortRun;
  }
  AIMET_HOST_DEVICE constexpr std::int64_t columns() const { return shape.channels * shape.inner; }
  AIMET_HOST_DEVICE constexpr std::int64_t chunks_per_run() const {
    return (shape.inner + kChunk - 1) / kChunk;
  }
  AIMET_HOST_DEVICE constexpr std::int64_t row_blocks() const {
    return (shape.outer + kRowBlock - 1) / kRowBlock;
  }
  AIMET_HOST_DEVICE constexpr std::int64_t column_tiles() const {
    return (columns() + kChunk - 1) / kChunk;
  }
  AIMET_HOST_DEVICE constexpr std::int64_t task_count() const {
    return is_by_columns() ? row_blocks() * column_tiles()
                           : shape.outer * shape.channels * chunks_per_run();
  }
  AIMET_HOST_DEVICE constexpr std::int64_t partial_count() const {
    return is_by_columns() ? row_blocks() * columns() : task_count();
  }
  // Where a task begins in memory; the end for task_count(). By columns: of the first task of a
  // block of rows.
  AIMET_HOST_DEVICE constexpr std::int64_t first_element(std::int64_t task) const {
    if (is_by_columns()) {
      const std::int64_t row = task / column_tiles() * kRowBlock;
      return (row < shape.outer ? row : shape.outer) * columns();
    }
    const std::int64_t chunks = chunks_per_run();
    return chunks == 0 ? 0 : task / chunks * shape.inner + task % chunks * kChunk;
  }
  // Elements in a typical task: the operators' measure of how many tasks are worth a thread.
  AIMET_HOST_DEVICE constexpr std::int64_t task_size() const {
    const std::int64_t rows = shape.outer < kRowBlock ? shape.outer : kRowBlock;
    const std::int64_t width = is_by_columns() ? columns() : shape.inner;
    return (width < kChunk ? width : kChunk) * (is_by_columns() ? rows : 1);
  }

  // The partial results of channel c are, in this order, for each group g the values
  // [(g * channels + c) * partials_per_group(), ... + partials_per_group()).
  AIMET_HOST_DEVICE constexpr std::int64_t groups() const {
    return is_by_columns() ? row_blocks() : shape.outer;
  }
  AIMET_HOST_DEVICE constexpr std::int64_t partials_per_group() const {
    return is_by_columns() ? shape.inner : chunks_per_run();
  }
};

// Adds lanes[width / 2 ...] to lanes[0 ...], and so on: the tree.
template <int kCount, typename T>
AIMET_HOST_DEVICE T add_lanes(T (&lanes)[kCount]) {
  for (int width = kCount / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

// The sum of a channel's partial results: partial n goes to lane n % kPartialLanes.
AIMET_HOST_DEVICE double sum_of_channel(const double* partials, const Reduction& reduction,
                                        std::int64_t channel) {
  double lanes[kPartialLanes] = {};
  const std::int64_t per_group = reduction.partials_per_group();
  std::int64_t n = 0;
  for (std::int64_t group = 0; group < reduction.groups(); ++group) {
    const double* values = partials + (group * reduction.shape.channels + channel) * per_group;
    for (std::int64_t i = 0; i < per_group; ++i) lanes[n++ % kPartialLanes] += values[i];
  }
  return add_lanes(lanes);
}

}  // namespace aimet::core

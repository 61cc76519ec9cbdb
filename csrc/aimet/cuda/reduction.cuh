// Walks the tasks of a core::Reduction in the order of the CPU kernels: half a warp per task of
// rows, one thread per column and row block of tasks of columns. `Accumulator` has
//   void begin_channel(int64_t channel);    resets and notes the channel
//   void add(int64_t index);                takes in one element
//   void merge_lane_above(int distance);    takes in the accumulator of the lane `distance` above
//   void finish(int64_t partial);           writes the partial result
#pragma once

#include "aimet/core/geometry.h"
#include "aimet/cuda/elements.cuh"
#include "aimet/cuda/launch.cuh"

#include <cuda_runtime.h>

#include <cstdint>

namespace aimet::cuda {

template <typename Accumulator>
__device__ __forceinline__ void reduce_rows(const core::Reduction& reduction,
                                            Accumulator& accumulator) {
  const std::int64_t inner = reduction.shape.inner;
  const std::int64_t chunks = reduction.chunks_per_run();
  const std::int64_t tasks = reduction.task_count();
  const int lane = threadIdx.x % core::kLanes;
  const int warp_lane = threadIdx.x % kWarpSize;
  const std::int64_t task_stride = thread_total() / core::kLanes;
  // Whole warps stay in the loop (two tasks each): lanes exchange values.
  for (std::int64_t task = thread_index() / core::kLanes; task - warp_lane / core::kLanes < tasks;
       task += task_stride) {
    const bool is_task = task < tasks;
    if (is_task) {
      const std::int64_t run = divide(task, chunks);
      const std::int64_t first = (task - run * chunks) * core::kChunk;
      const std::int64_t count = inner - first < core::kChunk ? inner - first : core::kChunk;
      const std::int64_t start = run * inner + first;
      accumulator.begin_channel(run -
                                divide(run, reduction.shape.channels) * reduction.shape.channels);
      for (std::int64_t i = lane; i < count; i += core::kLanes) accumulator.add(start + i);
    } else {
      accumulator.begin_channel(0);
    }
#pragma unroll
    for (int distance = core::kLanes / 2; distance > 0; distance /= 2)
      accumulator.merge_lane_above(distance);
    if (is_task && lane == 0) accumulator.finish(task);
  }
}

template <typename Accumulator>
__device__ __forceinline__ void reduce_columns(const core::Reduction& reduction,
                                               Accumulator& accumulator) {
  const std::int64_t columns = reduction.columns();
  const std::int64_t outer = reduction.shape.outer;
  const std::int64_t partials = reduction.partial_count();
  for (std::int64_t partial = thread_index(); partial < partials; partial += thread_total()) {
    const std::int64_t block = divide(partial, columns);
    const std::int64_t column = partial - block * columns;
    const std::int64_t row_begin = block * core::Reduction::kRowBlock;
    const std::int64_t rows_left = outer - row_begin;
    const std::int64_t row_end =
        row_begin +
        (rows_left < core::Reduction::kRowBlock ? rows_left : core::Reduction::kRowBlock);
    accumulator.begin_channel(divide(column, reduction.shape.inner));
    for (std::int64_t row = row_begin; row < row_end; ++row)
      accumulator.add(row * columns + column);
    accumulator.finish(partial);
  }
}

template <typename Accumulator>
__device__ __forceinline__ void reduce(const core::Reduction& reduction, Accumulator& accumulator) {
  if (reduction.is_by_columns()) {
    reduce_columns(reduction, accumulator);
  } else {
    reduce_rows(reduction, accumulator);
  }
}

// Threads for reduce().
inline std::int64_t reduction_threads(const core::Reduction& reduction) {
  return reduction.is_by_columns() ? reduction.partial_count()
                                   : reduction.task_count() * core::kLanes;
}

// A warp per channel over its partial results: function(partial index) in kPartialLanes lanes; then
// merge(distance) for the tree, finish(channel) in lane 0.
template <typename Begin, typename Add, typename Merge, typename Finish>
__device__ __forceinline__ void combine_partials(const core::Reduction& reduction,
                                                 const Begin& begin, const Add& add,
                                                 const Merge& merge, const Finish& finish) {
  static_assert(core::kPartialLanes == kWarpSize);
  const std::int64_t channels = reduction.shape.channels;
  const std::int64_t per_group = reduction.partials_per_group();
  const std::int64_t count = reduction.groups() * per_group;
  const int lane = threadIdx.x % kWarpSize;
  for (std::int64_t channel = thread_index() / kWarpSize; channel < channels;
       channel += thread_total() / kWarpSize) {
    begin();
    for (std::int64_t n = lane; n < count; n += kWarpSize) {
      const std::int64_t group = divide(n, per_group);
      add((group * channels + channel) * per_group + (n - group * per_group));
    }
#pragma unroll
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2) merge(distance);
    if (lane == 0) finish(channel);
  }
}

}  // namespace aimet::cuda

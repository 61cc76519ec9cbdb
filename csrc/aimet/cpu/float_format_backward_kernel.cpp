// Gradient of rounding to a floating-point format: of the input element by element, of the scale as
// partial sums per task of the Reduction.
#include "aimet/core/float_format.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/lanes.h"
#include "aimet/cpu/streams.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename Element>
struct FloatBackward {
  using T = Compute<Element>;
  const FloatFormatBackwardArguments& a;
  const Element* grad = static_cast<const Element*>(a.grad);
  const Element* input = static_cast<const Element*>(a.input);
  Element* grad_input = static_cast<Element*>(a.grad_input);
  const T* scale = static_cast<const T*>(a.scale);
  core::FloatRounding<T> rounding = core::rounding_of<T>(a.grid);
  Shape shape = a.reduction.shape;

  // Gradients of `count` neighbors: those of the input are stored, those of the scale are left in
  // `of_scale`, so that the sums over them are one loop, whatever the shape.
  template <typename ScaleOf>
  AIMET_HOST_DEVICE void elements(std::int64_t start, std::int64_t count, const ScaleOf& scale_of,
                                  T* of_scale) {
    alignas(64) T grad_buffer[kChunk];
    alignas(64) T input_buffer[kChunk];
    alignas(64) T output_buffer[kChunk];
    alignas(64) Element lines[kChunk];
    const T* g = load(grad + start, count, grad_buffer);
    const T* x = load(input + start, count, input_buffer);
    Element* target = a.is_streamed ? lines : grad_input + start;
    T* dx = grad_input == nullptr ? output_buffer : staging(target, output_buffer);
    for (std::int64_t i = 0; i < count; ++i) {
      const core::FloatGradient<T> d =
          core::quantize_dequantize_float_gradient(g[i], x[i], scale_of(i), rounding);
      dx[i] = d.input;
      of_scale[i] = d.scale;
    }
    if (grad_input == nullptr) return;
    store(output_buffer, count, target);
    if (a.is_streamed) stream(lines, count, grad_input + start);
  }

  // Up to kChunk elements of one channel.
  AIMET_HOST_DEVICE void row(std::int64_t task) {
    const std::int64_t chunks = a.reduction.chunks_per_run();
    const std::int64_t run = task / chunks;
    const std::int64_t first = task % chunks * kChunk;
    const std::int64_t count = shape.inner - first < kChunk ? shape.inner - first : kChunk;
    const T channel_scale = scale[run % shape.channels];
    alignas(64) T of_scale[kChunk];
    elements(run * shape.inner + first, count, [&](std::int64_t) { return channel_scale; },
             of_scale);
    alignas(64) T lanes[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += of_scale[i + j];
    }
    for (int j = 0; i + j < count; ++j) lanes[j] += of_scale[i + j];
    a.partial_scale[task] = static_cast<double>(add_lanes(lanes));
  }

  // Up to kRowBlock outer rows of up to kChunk columns; every column is a lane of its own.
  AIMET_HOST_DEVICE void column_tile(std::int64_t task) {
    const std::int64_t columns = a.reduction.columns();
    const std::int64_t tiles = a.reduction.column_tiles();
    const std::int64_t block = task / tiles;
    const std::int64_t first = task % tiles * kChunk;
    const std::int64_t count = columns - first < kChunk ? columns - first : kChunk;
    const std::int64_t row_begin = block * Reduction::kRowBlock;
    const std::int64_t rows_left = shape.outer - row_begin;
    const std::int64_t rows = rows_left < Reduction::kRowBlock ? rows_left : Reduction::kRowBlock;
    alignas(64) T column_scale[kChunk];
    alignas(64) T of_scale[kChunk];
    alignas(64) T sums[kChunk];
    for (std::int64_t i = 0; i < count; ++i) {
      column_scale[i] = scale[(first + i) / shape.inner];
      sums[i] = T(0);
    }
    for (std::int64_t row = row_begin; row < row_begin + rows; ++row) {
      elements(row * columns + first, count, [&](std::int64_t i) { return column_scale[i]; },
               of_scale);
      for (std::int64_t i = 0; i < count; ++i) sums[i] += of_scale[i];
    }
    for (std::int64_t i = 0; i < count; ++i)
      a.partial_scale[block * columns + first + i] = static_cast<double>(sums[i]);
  }
};

}  // namespace

void float_format_backward(ElementType type, const FloatFormatBackwardArguments& arguments,
                           std::int64_t begin, std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    FloatBackward<typename decltype(tag)::type> backward{arguments};
    const bool by_columns = arguments.reduction.is_by_columns();
    for (std::int64_t task = begin; task < end; ++task)
      by_columns ? backward.column_tile(task) : backward.row(task);
    if (arguments.is_streamed) finish_streams();
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE

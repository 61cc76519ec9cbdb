// Gradient of quantize-dequantize: of the input element by element, of scale and offset as partial
// sums per task of the Reduction. The operators add the partial sums up, in order, in double.
#include "aimet/core/affine.h"
#include "aimet/cpu/clamping.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/lanes.h"
#include "aimet/cpu/streams.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename Element>
struct Backward {
  using T = Compute<Element>;
  const AffineBackwardArguments& a;
  const Element* grad = static_cast<const Element*>(a.grad);
  const Element* input = static_cast<const Element*>(a.input);
  Element* grad_input = static_cast<Element*>(a.grad_input);
  const T* scale = static_cast<const T*>(a.scale);
  const T* offset = static_cast<const T*>(a.offset);
  Shape shape = a.reduction.shape;
  T qmin = static_cast<T>(a.qmin);
  T qmax = static_cast<T>(a.qmax);
  Clamping<Element> clamping{a.clamp};

  // Where `grad_input` from `start` on is to be written; null: nowhere.
  AIMET_HOST_DEVICE Element* target_of(std::int64_t start, Element* lines) const {
    if (grad_input == nullptr) return nullptr;
    return a.is_streamed ? lines : grad_input + start;
  }
  AIMET_HOST_DEVICE void finish(const T* staged, Element* lines, std::int64_t count,
                                std::int64_t start) {
    if (grad_input == nullptr) return;
    store(staged, count, a.is_streamed ? lines : grad_input + start);
    if (a.is_streamed) stream(lines, count, grad_input + start);
  }

  // Up to kChunk elements of one channel.
  AIMET_HOST_DEVICE void row(std::int64_t task) {
    const std::int64_t chunks = a.reduction.chunks_per_run();
    const std::int64_t run = task / chunks;
    const std::int64_t first = (task % chunks) * kChunk;
    const std::int64_t count = shape.inner - first < kChunk ? shape.inner - first : kChunk;
    const std::int64_t start = run * shape.inner + first;
    const std::int64_t channel = run % shape.channels;
    const core::AffineParams<T> params{scale[channel], offset[channel], qmin, qmax};
    alignas(64) T grad_buffer[kChunk];
    alignas(64) T input_buffer[kChunk];
    alignas(64) T clamped[kChunk];
    alignas(64) std::uint8_t passes[kChunk];
    alignas(64) T output_buffer[kChunk];
    alignas(64) Element lines[kChunk];
    const T* g = load(grad + start, count, grad_buffer);
    const T* x =
        clamping.apply(load(input + start, count, input_buffer), count, clamped, passes);
    Element* target = target_of(start, lines);
    T* dx = target == nullptr ? output_buffer : staging(target, output_buffer);
    alignas(64) T scale_lanes[kLanes] = {};
    alignas(64) T offset_lanes[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const core::AffineGradient<T> d =
            core::quantize_dequantize_gradient(g[i + j], x[i + j], params);
        dx[i + j] = d.input;
        scale_lanes[j] += d.scale;
        offset_lanes[j] += d.offset;
      }
    }
    for (int j = 0; i + j < count; ++j) {
      const core::AffineGradient<T> d =
          core::quantize_dequantize_gradient(g[i + j], x[i + j], params);
      dx[i + j] = d.input;
      scale_lanes[j] += d.scale;
      offset_lanes[j] += d.offset;
    }
    clamping.stop_gradients(dx, passes, count);
    finish(output_buffer, lines, count, start);
    a.partial_scale[task] = static_cast<double>(add_lanes(scale_lanes));
    a.partial_offset[task] = static_cast<double>(add_lanes(offset_lanes));
  }

  // Up to kRowBlock outer rows of up to kChunk columns; every column is a lane of its own.
  AIMET_HOST_DEVICE void column_tile(std::int64_t task) {
    const std::int64_t columns = a.reduction.columns();
    const std::int64_t tiles = a.reduction.column_tiles();
    const std::int64_t block = task / tiles;
    const std::int64_t first = (task % tiles) * kChunk;
    const std::int64_t count = columns - first < kChunk ? columns - first : kChunk;
    const std::int64_t row_begin = block * Reduction::kRowBlock;
    const std::int64_t rows_left = shape.outer - row_begin;
    const std::int64_t row_end =
        row_begin + (rows_left < Reduction::kRowBlock ? rows_left : Reduction::kRowBlock);
    alignas(64) T column_scale[kChunk];
    alignas(64) T column_offset[kChunk];
    alignas(64) T scale_sums[kChunk];
    alignas(64) T offset_sums[kChunk];
    for (std::int64_t i = 0; i < count; ++i) {
      column_scale[i] = scale[(first + i) / shape.inner];
      column_offset[i] = offset[(first + i) / shape.inner];
      scale_sums[i] = T(0);
      offset_sums[i] = T(0);
    }
    alignas(64) T grad_buffer[kChunk];
    alignas(64) T input_buffer[kChunk];
    alignas(64) T clamped[kChunk];
    alignas(64) std::uint8_t passes[kChunk];
    alignas(64) T output_buffer[kChunk];
    alignas(64) Element lines[kChunk];
    for (std::int64_t row = row_begin; row < row_end; ++row) {
      const std::int64_t start = row * columns + first;
      const T* g = load(grad + start, count, grad_buffer);
      const T* x =
          clamping.apply(load(input + start, count, input_buffer), count, clamped, passes);
      Element* target = target_of(start, lines);
      T* dx = target == nullptr ? output_buffer : staging(target, output_buffer);
      for (std::int64_t i = 0; i < count; ++i) {
        const core::AffineParams<T> params{column_scale[i], column_offset[i], qmin, qmax};
        const core::AffineGradient<T> d = core::quantize_dequantize_gradient(g[i], x[i], params);
        dx[i] = d.input;
        scale_sums[i] += d.scale;
        offset_sums[i] += d.offset;
      }
      clamping.stop_gradients(dx, passes, count);
      finish(output_buffer, lines, count, start);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      a.partial_scale[block * columns + first + i] = static_cast<double>(scale_sums[i]);
      a.partial_offset[block * columns + first + i] = static_cast<double>(offset_sums[i]);
    }
  }
};

}  // namespace

void affine_backward(ElementType type, const AffineBackwardArguments& arguments, std::int64_t begin,
                     std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    Backward<typename decltype(tag)::type> backward{arguments};
    if (arguments.reduction.is_by_columns()) {
      for (std::int64_t task = begin; task < end; ++task) backward.column_tile(task);
    } else {
      for (std::int64_t task = begin; task < end; ++task) backward.row(task);
    }
    if (arguments.is_streamed) finish_streams();
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE

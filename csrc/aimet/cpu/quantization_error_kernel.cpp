// Errors of a tensor on several grids, with and without weights, in one pass over tensor and
// gradient: both are read once, all grids are tried while they are in the cache.
#include "aimet/core/quantization_error.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/lanes.h"
#include "aimet/cpu/runs.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

template <typename T>
struct ErrorLanes {
  alignas(64) T noise[kLanes] = {};
  alignas(64) T weighted[kLanes] = {};
  alignas(64) T change[kLanes] = {};
  alignas(64) T clipped[kLanes] = {};

  AIMET_HOST_DEVICE void add(int lane, T x, T grad, const core::AffineParams<T>& params) {
    const core::QuantizationError<T> e = core::quantization_error(x, grad, params);
    noise[lane] += e.error * e.error;
    weighted[lane] += e.change * e.change;
    change[lane] += e.change;
    clipped[lane] += e.clipped;
  }
};

template <typename Element>
AIMET_HOST_DEVICE void errors_of_task(const QuantizationErrorArguments& a, std::int64_t task) {
  using T = Compute<Element>;
  const std::int64_t chunks = a.chunks_per_row();
  const std::int64_t first = task % chunks * kChunk;
  const std::int64_t start = task / chunks * a.row_length + first;
  const std::int64_t count = a.row_length - first < kChunk ? a.row_length - first : kChunk;
  alignas(64) T input_buffer[kChunk];
  alignas(64) T grad_buffer[kChunk];
  const T* __restrict x = load(static_cast<const Element*>(a.input) + start, count, input_buffer);
  const T* g = grad_buffer;
  if (a.grad != nullptr) {
    g = load(static_cast<const Element*>(a.grad) + start, count, grad_buffer);
  } else {
    for (std::int64_t i = 0; i < count; ++i) grad_buffer[i] = T(0);
  }
  alignas(64) T power[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) power[i % kLanes] += x[i] * x[i];
  a.power[task] = static_cast<double>(add_lanes(power));
  for (std::int64_t c = 0; c < a.candidates; ++c) {
    const T qmin = static_cast<T>(a.qmin[c]);
    const T qmax = static_cast<T>(a.qmax[c]);
    ErrorLanes<T> sums;
    ChannelRuns<T> runs(static_cast<const T*>(a.scale) + c * a.shape.channels,
                        static_cast<const T*>(a.offset) + c * a.shape.channels, a.shape);
    runs.for_each(
        start, count,
        [&](std::int64_t at, std::int64_t length, T scale, T offset) {
          const core::AffineParams<T> params{scale, offset, qmin, qmax};
          std::int64_t i = 0;
          for (; i + kLanes <= length; i += kLanes) {
            for (int j = 0; j < kLanes; ++j) sums.add(j, x[at + i + j], g[at + i + j], params);
          }
          for (int j = 0; i + j < length; ++j) sums.add(j, x[at + i + j], g[at + i + j], params);
        },
        [&](std::int64_t at, std::int64_t length, const T* scale, const T* offset) {
          std::int64_t i = 0;
          for (; i + kLanes <= length; i += kLanes) {
            for (int j = 0; j < kLanes; ++j) {
              sums.add(j, x[at + i + j], g[at + i + j], {scale[i + j], offset[i + j], qmin, qmax});
            }
          }
          for (int j = 0; i + j < length; ++j) {
            sums.add(j, x[at + i + j], g[at + i + j], {scale[i + j], offset[i + j], qmin, qmax});
          }
        });
    double* result = a.partial + (task * a.candidates + c) * QuantizationErrorArguments::kSums;
    result[0] = static_cast<double>(add_lanes(sums.noise));
    result[1] = static_cast<double>(add_lanes(sums.weighted));
    result[2] = static_cast<double>(add_lanes(sums.change));
    result[3] = static_cast<double>(add_lanes(sums.clipped));
  }
}

}  // namespace

void quantization_errors(ElementType type, const QuantizationErrorArguments& arguments,
                         std::int64_t begin, std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    for (std::int64_t task = begin; task < end; ++task) errors_of_task<Element>(arguments, task);
  });
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE

// Quantize-dequantize and the limits of its input in one loop: while results are on their way to
// memory, the comparisons cost nothing. A second loop, even over a few kilobytes at a time, would
// leave the memory idle meanwhile.
#include "aimet/core/affine.h"
#include "aimet/cpu/elements.h"
#include "aimet/cpu/functions.h"
#include "aimet/cpu/limits.h"
#include "aimet/cpu/streams.h"

namespace aimet::cpu::AIMET_SIMD_NAMESPACE {
namespace {

// Tasks [begin, end) of one run.
template <typename Element>
AIMET_HOST_DEVICE void affine_limits_run(const AffineArguments& a, const MinMaxArguments& limits,
                                         std::int64_t begin, std::int64_t end) {
  using T = Compute<Element>;
  constexpr std::int64_t kStep = RunningLimits<T>::kStep;
  const Reduction& reduction = limits.reduction;
  const std::int64_t run = begin / reduction.chunks_per_run();
  const std::int64_t first = reduction.first_element(begin);
  const std::int64_t run_end = (run + 1) * reduction.shape.inner;
  const std::int64_t wanted = first + (end - begin) * kChunk;
  const std::int64_t count = (wanted < run_end ? wanted : run_end) - first;
  const std::int64_t channel = run % a.shape.channels;
  const core::AffineParams<T> params{static_cast<const T*>(a.scale)[channel],
                                     static_cast<const T*>(a.offset)[channel],
                                     static_cast<T>(a.qmin), static_cast<T>(a.qmax)};
  const Element* input = static_cast<const Element*>(a.input) + first;
  Element* output = static_cast<Element*>(a.output) + first;
  alignas(64) T loaded[kChunk];
  alignas(64) T staged[kChunk];
  alignas(64) Element lines[kChunk];
  RunningLimits<T> found;
  for (std::int64_t start = 0; start < count; start += kChunk) {
    const std::int64_t size = count - start < kChunk ? count - start : kChunk;
    const T* __restrict x = load(input + start, size, loaded);
    Element* target = a.is_streamed ? lines : output + start;
    T* __restrict y = staging(target, staged);
    std::int64_t i = 0;
    for (; i + kStep <= size; i += kStep) {
      found.add(x + i);
      for (std::int64_t j = i; j < i + kStep; ++j) y[j] = core::quantize_dequantize(x[j], params);
    }
    for (; i < size; ++i) {
      found.add_one(x[i]);
      y[i] = core::quantize_dequantize(x[i], params);
    }
    store(staged, size, target);
    if (a.is_streamed) stream(lines, size, output + start);
  }
  T* low = static_cast<T*>(limits.partial_min) + begin;
  T* high = static_cast<T*>(limits.partial_max) + begin;
  found.result(low, high);
  if (found.met_infinity()) min_max_of(input, count, low, high);
  clear_other_tasks(end - begin, low, high);
}

}  // namespace

void affine_limits(ElementType type, const AffineArguments& arguments,
                   const MinMaxArguments& limits, std::int64_t begin, std::int64_t end) {
  with_element_type(type, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    const std::int64_t chunks = limits.reduction.chunks_per_run();
    for (std::int64_t task = begin; task < end;) {
      const std::int64_t run_end = (task / chunks + 1) * chunks;
      const std::int64_t stop = run_end < end ? run_end : end;
      affine_limits_run<Element>(arguments, limits, task, stop);
      task = stop;
    }
  });
  if (arguments.is_streamed) finish_streams();
}

}  // namespace aimet::cpu::AIMET_SIMD_NAMESPACE

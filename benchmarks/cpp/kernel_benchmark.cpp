// Times the bare CPU kernels on one thread, in turn with memcpy over the same bytes, and prints JSON:
//   [{"kernel", "instruction_set", "elements", "bytes_per_element", "seconds", "memcpy_seconds"}]
// Medians of rounds; every buffer was written before, so no page is new.
#include "aimet/cpu/capability.h"
#include "aimet/cpu/kernels.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace {

using aimet::cpu::ElementType;
using aimet::cpu::Shape;

constexpr float kScale = 3.0f / 127.0f;
constexpr double kSecondsEach = 0.3;

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

Buffer buffer(std::size_t size) {
  Buffer memory(static_cast<std::byte*>(std::aligned_alloc(64, (size + 63) / 64 * 64)));
  if (memory == nullptr) std::abort();
  std::memset(memory.get(), 0, size);
  return memory;
}

// What all kernels work on. Values are standard normal; some lie outside the grid.
struct Tensors {
  explicit Tensors(std::int64_t element_count)
      : count(element_count),
        x(buffer(4 * count)),
        grad(buffer(4 * count)),
        y(buffer(4 * count)),
        mask(buffer((count + 7) / 8)),
        half(buffer(2 * count)),
        scale(static_cast<std::size_t>(count), kScale),
        offset(static_cast<std::size_t>(count), 0.0f),
        partials(static_cast<std::size_t>(4 * count)) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < count; ++i) {
      reinterpret_cast<float*>(x.get())[i] = normal(generator);
      reinterpret_cast<float*>(grad.get())[i] = normal(generator);
      // The upper half of a float is a bfloat16.
      std::memcpy(half.get() + 2 * i, x.get() + 4 * i + 2, 2);
    }
  }
  std::int64_t count;
  Buffer x, grad, y, mask, half;
  std::vector<float> scale, offset;
  std::vector<double> partials;
};

struct Measured {
  const char* name;
  double bytes_per_element;  // read and written
  std::function<void(const aimet::cpu::KernelTable&, Tensors&)> run;
};

aimet::cpu::AffineArguments forward(Tensors& t, Shape shape, const void* input, bool with_mask) {
  return {input,
          t.y.get(),
          with_mask ? reinterpret_cast<std::uint8_t*>(t.mask.get()) : nullptr,
          t.scale.data(),
          t.offset.data(),
          shape,
          -128,
          127,
          t.count * 4 >= (std::int64_t{32} << 20)};
}

Measured quantize_dequantize(const char* name, double bytes, ElementType type, bool with_mask,
                             std::int64_t channels) {
  return {name, bytes, [=](const aimet::cpu::KernelTable& kernels, Tensors& t) {
            const Shape shape{1, channels, t.count / channels};
            const void* input = type == ElementType::kBFloat16 ? t.half.get() : t.x.get();
            kernels.affine(type, aimet::cpu::AffineMode::kQuantizeDequantize,
                           forward(t, shape, input, with_mask), 0, t.count);
          }};
}

std::vector<Measured> kernels_to_measure() {
  return {
      quantize_dequantize("quantize_dequantize", 8, ElementType::kFloat32, false, 1),
      quantize_dequantize("quantize_dequantize, 64 channels", 8, ElementType::kFloat32, false, 64),
      quantize_dequantize("quantize_dequantize, bfloat16", 4, ElementType::kBFloat16, false, 1),
      quantize_dequantize("quantize_dequantize, mask", 8.125, ElementType::kFloat32, true, 1),
      {"backward, mask", 8.125,
       [](const aimet::cpu::KernelTable& kernels, Tensors& t) {
         kernels.select_by_mask(4, t.grad.get(), reinterpret_cast<std::uint8_t*>(t.mask.get()),
                                t.y.get(), 0, t.count);
       }},
      {"backward, learned range", 12,
       [](const aimet::cpu::KernelTable& kernels, Tensors& t) {
         const aimet::cpu::Reduction reduction{{1, 1, t.count}};
         const aimet::cpu::AffineBackwardArguments arguments{
             t.grad.get(),
             t.x.get(),
             t.y.get(),
             t.scale.data(),
             t.offset.data(),
             t.partials.data(),
             t.partials.data() + reduction.partial_count(),
             reduction,
             -128,
             127,
             t.count * 4 >= (std::int64_t{32} << 20)};
         kernels.affine_backward(ElementType::kFloat32, arguments, 0, reduction.task_count());
       }},
      {"min_max", 4,
       [](const aimet::cpu::KernelTable& kernels, Tensors& t) {
         const aimet::cpu::Reduction reduction{{1, 1, t.count}};
         float* partials = reinterpret_cast<float*>(t.partials.data());
         kernels.min_max(ElementType::kFloat32,
                         {t.x.get(), partials, partials + reduction.partial_count(), reduction}, 0,
                         reduction.task_count());
       }},
      {"histogram, 2048 bins", 4,
       [](const aimet::cpu::KernelTable& kernels, Tensors& t) {
         const float low = -5;
         const float high = 5;
         static std::int64_t counts[2048];
         kernels.histogram(ElementType::kFloat32, {t.x.get(), &low, &high, {1, 1, t.count}, 2048},
                           {0, 1, 0, 1, 0, t.count}, counts);
       }},
  };
}

// Kernel and copy in turn; a sample is long enough for the clock.
void measure(const Measured& measured, const aimet::cpu::KernelTable& kernels, Tensors& t,
             bool is_first) {
  const auto copied = static_cast<std::size_t>(measured.bytes_per_element / 2 *
                                               static_cast<double>(t.count));
  Buffer source = buffer(copied);
  Buffer target = buffer(copied);
  const auto timed = [&](std::int64_t calls, const auto& body) {
    const double start = now();
    for (std::int64_t i = 0; i < calls; ++i) body();
    return (now() - start) / static_cast<double>(calls);
  };
  const auto run = [&] { measured.run(kernels, t); };
  const auto copy = [&] {
    std::memcpy(target.get(), source.get(), copied);
    asm volatile("" : : "r"(target.get()) : "memory");
  };
  const double once = timed(1, run) + timed(1, copy);
  const auto calls = static_cast<std::int64_t>(std::max(1.0, 1e-3 / once));
  std::vector<double> seconds;
  std::vector<double> memcpy_seconds;
  for (const double end = now() + kSecondsEach; seconds.size() < 3 || now() < end;) {
    seconds.push_back(timed(calls, run));
    memcpy_seconds.push_back(timed(calls, copy));
  }
  std::printf("%s\n  {\"kernel\": \"%s\", \"instruction_set\": \"%s\", \"elements\": %lld, "
              "\"bytes_per_element\": %g, \"seconds\": %.4g, \"memcpy_seconds\": %.4g}",
              is_first ? "" : ",", measured.name, kernels.name, static_cast<long long>(t.count),
              measured.bytes_per_element, median(seconds), median(memcpy_seconds));
}

}  // namespace

int main() {
  std::printf("[");
  bool is_first = true;
  for (const std::int64_t count : {std::int64_t{1} << 15, std::int64_t{1} << 24}) {
    Tensors tensors(count);
    for (const aimet::cpu::Capability capability :
         {aimet::cpu::Capability::kBaseline, aimet::cpu::Capability::kAvx2,
          aimet::cpu::Capability::kAvx512}) {
      const aimet::cpu::KernelTable* kernels = aimet::cpu::kernel_table(capability);
      if (kernels == nullptr || capability > aimet::cpu::supported_capability()) continue;
      for (const Measured& measured : kernels_to_measure()) {
        measure(measured, *kernels, tensors, is_first);
        is_first = false;
      }
    }
  }
  std::printf("\n]\n");
  return 0;
}

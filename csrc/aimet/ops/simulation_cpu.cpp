#include "aimet/core/encoding.h"
#include "aimet/core/rounding.h"
#include "aimet/ops/affine.h"
#include "aimet/ops/checks.h"
#include "aimet/ops/encoding.h"
#include "aimet/ops/kernel_choice.h"
#include "aimet/ops/layout.h"
#include "aimet/ops/simulation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

namespace aimet {
namespace {

constexpr const char* kByRange = "quantize_dequantize_by_range_";
constexpr const char* kInPlace = "quantize_dequantize_";
constexpr std::int64_t kBlock = 2 * cpu::kChunk;  // stays in the first-level cache

struct Clamp {
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
  bool is_wanted = false;
};

// The kernel reads a copy in the cache: so its loops see that input and output do not overlap, and
// the clamp costs no pass of its own.
void in_place_by_blocks(std::byte* data, std::size_t element_size, cpu::ElementType type,
                        const Clamp& clamp, cpu::AffineArguments arguments, std::int64_t begin,
                        std::int64_t end) {
  alignas(64) std::byte buffer[kBlock * sizeof(double)];
  const cpu::KernelTable& kernels = ops::kernels();
  arguments.input = buffer;
  for (std::int64_t start = begin; start < end; start += kBlock) {
    const std::int64_t count = std::min(kBlock, end - start);
    std::byte* block = data + start * element_size;
    if (clamp.is_wanted) {
      const float* source = reinterpret_cast<const float*>(block);
      float* target = reinterpret_cast<float*>(buffer);
      for (std::int64_t i = 0; i < count; ++i)
        target[i] = core::clamp(source[i], clamp.low, clamp.high);
    } else {
      std::memcpy(buffer, block, count * element_size);
    }
    arguments.output = block;
    kernels.affine(type, cpu::AffineMode::kQuantizeDequantize, arguments, 0, count);
  }
}

template <typename T>
void run_in_place(const char* op, const at::Tensor& x, T scale, T offset, std::int64_t qmin,
                  std::int64_t qmax, const Clamp& clamp) {
  if (!(scale > 0 && std::isfinite(scale))) {  // for the message; a tensor costs too much each time
    ops::check_scale_values(
        op, at::scalar_tensor(scale, x.options().dtype(c10::CppTypeToScalarType<T>::value)));
  }
  const cpu::AffineArguments arguments{nullptr,
                                       nullptr,
                                       nullptr,
                                       &scale,
                                       &offset,
                                       {1, 1, x.numel()},
                                       static_cast<double>(qmin),
                                       static_cast<double>(qmax)};
  std::byte* data = static_cast<std::byte*>(x.mutable_data_ptr());
  const cpu::ElementType type = ops::element_type(x);
  at::parallel_for(0, x.numel(), ops::kGrainSize, [&](std::int64_t begin, std::int64_t end) {
    in_place_by_blocks(data, x.element_size(), type, clamp, arguments, begin, end);
  });
}

// In the type that is computed in.
void quantize_in_place(const char* op, const at::Tensor& x, double scale, double offset,
                       std::int64_t qmin, std::int64_t qmax, const Clamp& clamp) {
  if (x.scalar_type() == at::kDouble) {
    run_in_place<double>(op, x, scale, offset, qmin, qmax, clamp);
  } else {
    run_in_place<float>(op, x, static_cast<float>(scale), static_cast<float>(offset), qmin, qmax,
                        clamp);
  }
}

// What the kernel can apply on its way; the rest is applied here.
Clamp clamp_of(const at::Tensor& input, std::optional<double> clamp_min,
               std::optional<double> clamp_max) {
  Clamp clamp;
  if (!clamp_min.has_value() && !clamp_max.has_value()) return clamp;
  if (input.scalar_type() == at::kFloat) {
    clamp.is_wanted = true;
    if (clamp_min.has_value()) clamp.low = static_cast<float>(*clamp_min);
    if (clamp_max.has_value()) clamp.high = static_cast<float>(*clamp_max);
  } else {
    input.clamp_(clamp_min.has_value() ? std::optional<at::Scalar>(*clamp_min) : std::nullopt,
                 clamp_max.has_value() ? std::optional<at::Scalar>(*clamp_max) : std::nullopt);
  }
  return clamp;
}

bool is_one_number(const at::Tensor& tensor) {
  return tensor.numel() == 1 &&
         (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble);
}

double number_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? *tensor.const_data_ptr<double>()
                                             : *tensor.const_data_ptr<float>();
}

void quantize_with_tensors(at::Tensor input, const Clamp& clamp, const at::Tensor& scale,
                           const at::Tensor& offset, std::int64_t qmin, std::int64_t qmax) {
  if (clamp.is_wanted) input.clamp_(clamp.low, clamp.high);
  input.copy_(quantize_dequantize(input, scale, offset, qmin, qmax));
}

void by_range_cpu(at::Tensor input, const at::Tensor& min, const at::Tensor& max, std::int64_t qmin,
                  std::int64_t qmax, bool symmetric, std::optional<double> clamp_min,
                  std::optional<double> clamp_max) {
  ops::check_is_floating(kByRange, "input", input);
  ops::check_range(kByRange, min, max);
  ops::check_granularity(kByRange, "min", min.sym_sizes(), input.sym_sizes(), {});
  ops::check_grid(kByRange, qmin, qmax);
  const Clamp clamp = clamp_of(input, clamp_min, clamp_max);
  if (!is_one_number(min) || !input.is_non_overlapping_and_dense()) {
    auto [scale, offset] = encoding_from_range(min, max, qmin, qmax, symmetric);
    quantize_with_tensors(input, clamp, scale, offset, qmin, qmax);
    return;
  }
  // The encoding is computed in the range's own type, as encoding_from_range does.
  const auto quantize_by = [&](auto zero) {
    using T = decltype(zero);
    const core::Range<T> range{*min.const_data_ptr<T>(), *max.const_data_ptr<T>()};
    const auto encoding = core::encoding_from_range(range, qmin, qmax, symmetric);
    quantize_in_place(kByRange, input, encoding.scale, encoding.offset, qmin, qmax, clamp);
  };
  if (min.scalar_type() == at::kDouble) {
    quantize_by(double{});
  } else {
    quantize_by(float{});
  }
}

void in_place_cpu(at::Tensor input, const at::Tensor& scale, const at::Tensor& offset,
                  std::int64_t qmin, std::int64_t qmax, std::optional<double> clamp_min,
                  std::optional<double> clamp_max) {
  ops::check_affine(kInPlace, input, scale, offset, {});
  ops::check_grid(kInPlace, qmin, qmax);
  const Clamp clamp = clamp_of(input, clamp_min, clamp_max);
  if (is_one_number(scale) && is_one_number(offset) && input.is_non_overlapping_and_dense()) {
    quantize_in_place(kInPlace, input, number_of(scale), number_of(offset), qmin, qmax, clamp);
  } else {
    quantize_with_tensors(input, clamp, scale, offset, qmin, qmax);
  }
}

// Mixes 64 bits (Steele, Lea, Flood 2014: SplittableRandom's finalizer).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

std::uint64_t fingerprint_of(const at::Tensor& tensor) {
  constexpr std::int64_t kAll = 1024;
  constexpr std::int64_t kSamples = 256;
  const at::Tensor x = ops::dense(tensor);
  const std::size_t size = x.element_size();
  const std::byte* data = static_cast<const std::byte*>(x.const_data_ptr());
  const std::int64_t count = x.numel();
  const std::int64_t samples = count <= kAll ? count : kSamples;
  std::uint64_t hash = static_cast<std::uint64_t>(count);
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::int64_t index = samples == count ? i : i * (count - 1) / (samples - 1);
    std::uint64_t bits = 0;
    std::memcpy(&bits, data + index * size, std::min(size, sizeof(bits)));
    hash += mix(bits ^ mix(static_cast<std::uint64_t>(i) + 1));
  }
  return hash;
}

std::int64_t fingerprint_cpu(at::TensorList tensors) {
  std::uint64_t hash = 0;
  for (const at::Tensor& tensor : tensors) hash = mix(hash + 1) + fingerprint_of(tensor);
  return static_cast<std::int64_t>(hash);
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CPU, m) {
  m.impl("quantize_dequantize_by_range_", &aimet::by_range_cpu);
  m.impl("quantize_dequantize_", &aimet::in_place_cpu);
  m.impl("fingerprint", &aimet::fingerprint_cpu);
}

// Raw memory with guards, filled with values worth testing, for tests that compare the emulated CUDA
// kernels with those of the CPU.
#pragma once

#include "aimet/core/half.h"
#include "aimet/cpu/capability.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

namespace aimet::cuda_test {

using core::ElementType;

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr unsigned char kGuard = 0xa5;  // around and behind what a kernel may write

inline const cpu::KernelTable& cpu_kernels() {
  return *cpu::kernel_table(cpu::Capability::kBaseline);
}

inline std::size_t element_size(ElementType type) {
  return type == ElementType::kFloat64 ? 8 : (type == ElementType::kFloat32 ? 4 : 2);
}

// Raw memory of `count` elements, starting `offset` elements behind a 16-byte boundary, with
// guards.
class Buffer {
 public:
  Buffer(std::size_t bytes_per_element, std::int64_t count, std::int64_t offset = 0)
      : start_(bytes_per_element * offset),
        size_(bytes_per_element * count),
        bytes_(start_ + size_ + 32, kGuard) {}

  void* data() { return bytes_.data() + start_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(bytes_.data() + start_);
  }
  bool has_guards() const {
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      if ((i < start_ || i >= start_ + size_) && bytes_[i] != kGuard) return false;
    }
    return true;
  }
  bool operator==(const Buffer& other) const {
    return size_ == other.size_ &&
           std::memcmp(bytes_.data() + start_, other.bytes_.data() + other.start_, size_) == 0;
  }

 private:
  std::size_t start_;
  std::size_t size_;
  std::vector<unsigned char> bytes_;  // operator new aligns to 16
};

inline void store(Buffer& buffer, ElementType type, std::int64_t index, double value) {
  const auto as_float = static_cast<float>(value);
  if (type == ElementType::kFloat64) buffer.as<double>()[index] = value;
  if (type == ElementType::kFloat32) buffer.as<float>()[index] = as_float;
  if (type == ElementType::kFloat16) buffer.as<core::Half>()[index] = core::to_half(as_float);
  if (type == ElementType::kBFloat16)
    buffer.as<core::BFloat16>()[index] = core::to_bfloat16(as_float);
}

// Values in and beside the grid, ties, and now and then a special one.
inline Buffer random_values(ElementType type, std::int64_t count, std::int64_t offset, unsigned seed,
                     bool is_finite = false) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, 40.0);
  const double special[] = {0.0, -0.0, 0.5, -1.5, 1e-40, 60000.0, kInfinity, -kInfinity};
  Buffer buffer(element_size(type), count, offset);
  for (std::int64_t i = 0; i < count; ++i) {
    const bool is_special = generator() % 16 == 0;
    const std::size_t choices = std::size(special) - (is_finite ? 2 : 0);
    store(buffer, type, i, is_special ? special[generator() % choices] : normal(generator));
  }
  if (count > 1000 && !is_finite)
    store(buffer, type, 17, kNan);  // rare: it swallows the sums that it is part of
  return buffer;
}

// Which bits a NaN has depends on the order of operands, which compilers choose.
inline ::testing::AssertionResult are_equal_sums(Buffer& actual, Buffer& expected, std::int64_t count) {
  std::int64_t number_count = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double a = actual.as<double>()[i];
    const double b = expected.as<double>()[i];
    number_count += std::isnan(a) ? 0 : 1;
    if (!(std::isnan(a) && std::isnan(b)) &&
        std::bit_cast<std::uint64_t>(a) != std::bit_cast<std::uint64_t>(b)) {
      return ::testing::AssertionFailure() << "sum " << i << ": " << a << " instead of " << b;
    }
  }
  if (count > 4 && number_count == 0) return ::testing::AssertionFailure() << "all sums are NaN";
  return ::testing::AssertionSuccess();
}

// One value of the compute type per channel.
inline Buffer per_channel(ElementType type, std::int64_t channels, double first, double step) {
  const ElementType compute =
      type == ElementType::kFloat64 ? ElementType::kFloat64 : ElementType::kFloat32;
  Buffer buffer(element_size(compute), channels);
  for (std::int64_t c = 0; c < channels; ++c)
    store(buffer, compute, c, first + step * static_cast<double>(c % 7));
  return buffer;
}

}  // namespace aimet::cuda_test

// Runs a test for each build of the kernels; those that the processor cannot run are skipped, with
// a reason, or fail if the environment variable AIMET_REQUIRE_AVX512 is set.
#pragma once

#include "aimet/cpu/capability.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace aimet::cpu {

class EachCapability : public testing::TestWithParam<Capability> {
 protected:
  void SetUp() override {
    if (kernel_table(GetParam()) == nullptr) GTEST_SKIP() << "not built for this processor family";
    if (GetParam() > supported_capability()) {
      if (std::getenv("AIMET_REQUIRE_AVX512") != nullptr)
        FAIL() << capability_name(GetParam()) << " is required";
      GTEST_SKIP() << "this processor has no " << capability_name(GetParam());
    }
  }
  const KernelTable& kernels() const { return *kernel_table(GetParam()); }
};

inline std::string capability_of(const testing::TestParamInfo<Capability>& info) {
  return capability_name(info.param);
}

#define AIMET_FOR_EACH_CAPABILITY(suite)                                              \
  INSTANTIATE_TEST_SUITE_P(                                                           \
      Kernels, suite,                                                                 \
      testing::Values(Capability::kBaseline, Capability::kAvx2, Capability::kAvx512), \
      capability_of)

// Shapes that take every path of the kernels: long and short runs, scale on the last axis, odd
// lengths, several chunks.
inline const Shape kShapes[] = {{1, 1, 1},  {1, 1, 3001}, {1, 3, 1100}, {2, 5, 49},
                                {7, 19, 1}, {1, 7, 4},    {40, 3, 1},   {300, 20, 3},
                                {33, 9, 2}, {1, 1025, 1}, {17, 1, 9},   {0, 4, 8}};

inline std::vector<float> normal(std::int64_t count, unsigned seed, float deviation = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.1f, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

inline std::int64_t count_of(Shape shape) {
  return shape.outer * shape.channels * shape.inner;
}
inline std::int64_t channel_of(std::int64_t element, Shape shape) {
  return element / shape.inner % shape.channels;
}

}  // namespace aimet::cpu

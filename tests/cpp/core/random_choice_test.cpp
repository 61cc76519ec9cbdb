#include "aimet/core/random_choice.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace aimet::core {
namespace {

TEST(RandomChoice, MixesAsMurmurHash3Does) {
  EXPECT_EQ(mix_bits(0), 0U);
  EXPECT_EQ(mix_bits(1), 0x514e28b7U);
  EXPECT_EQ(mix_bits(0xdeadbeefU), 0x0de5c6a9U);
}

// Computed in Python from the description.
TEST(RandomChoice, DependsOnEveryBitOfSeedAndIndex) {
  EXPECT_EQ(uniform_at(0, 0), 813640 * 0x1p-24f);
  EXPECT_EQ(uniform_at(0, 1), 10715001 * 0x1p-24f);
  EXPECT_EQ(uniform_at(7, 1), 8367670 * 0x1p-24f);
  EXPECT_EQ(uniform_at(-3, 5), 13044456 * 0x1p-24f);
  EXPECT_EQ(uniform_at(1099511627781, 9), 3427861 * 0x1p-24f);
  EXPECT_EQ(uniform_at(1, 8589934593), 2885804 * 0x1p-24f);
}

TEST(RandomChoice, IsEvenlySpread) {
  constexpr int kCount = 1 << 16, kBins = 16;
  for (const std::int64_t seed : {0, 1, 2}) {
    int counts[kBins] = {};
    for (std::int64_t i = 0; i < kCount; ++i)
      ++counts[static_cast<int>(uniform_at(seed, i) * kBins)];
    // Five deviations of a binomial count.
    for (const int count : counts) EXPECT_NEAR(count, kCount / kBins, 310);
  }
}

}  // namespace
}  // namespace aimet::core

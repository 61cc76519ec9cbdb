#include "aimet/core/requantization.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace aimet::core {
namespace {

TEST(FixedPoint, HoldsThirtyOneBitsOfTheRatio) {
  for (const double ratio : {0.75, 1.0 / 3, 3.7e-6, 1.0, 1234.5}) {
    const FixedPoint point = fixed_point(ratio);
    EXPECT_GE(point.multiplier, 1 << 30);
    EXPECT_NEAR(ratio_of(point) / ratio, 1.0, 0x1p-31);
  }
  // A mantissa that rounds up to one takes the next exponent.
  const FixedPoint next = fixed_point(std::nextafter(1.0, 0.0));
  EXPECT_EQ(next.multiplier, 1 << 30);
  EXPECT_EQ(next.shift, 1);
  EXPECT_EQ(fixed_point(0.0).multiplier, 0);
  EXPECT_EQ(fixed_point(0x1p-40).multiplier, 0);
}

TEST(Requantized, RoundsTiesAsItsRuleSays) {
  const FixedPoint half = fixed_point(0.5), quarter = fixed_point(0.25);
  EXPECT_EQ(requantized(5, half, RequantizationRule::kSingle), 3);
  EXPECT_EQ(requantized(-5, half, RequantizationRule::kSingle), -2);
  EXPECT_EQ(requantized(5, half, RequantizationRule::kHalfEven), 2);
  EXPECT_EQ(requantized(-5, half, RequantizationRule::kHalfEven), -2);
  EXPECT_EQ(requantized(7, half, RequantizationRule::kHalfEven), 4);
  EXPECT_EQ(requantized(-10, quarter, RequantizationRule::kGemmlowp), -3);
  EXPECT_EQ(requantized(-10, quarter, RequantizationRule::kSingle), -2);
}

// 13 / 9 = 1.44: the first rounding makes 12 / 8 of it, the second 2.
TEST(Requantized, RoundsTwiceAsGemmlowpDoes) {
  const FixedPoint ninth = fixed_point(1.0 / 9);
  EXPECT_EQ(requantized(13, ninth, RequantizationRule::kGemmlowp), 2);
  EXPECT_EQ(requantized(13, ninth, RequantizationRule::kSingle), 1);
  EXPECT_EQ(requantized(13, ninth, RequantizationRule::kHalfEven), 1);
}

TEST(Requantized, OverflowsNowhere) {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max() / 2;
  const FixedPoint one = fixed_point(1.0);
  for (const auto rule : {RequantizationRule::kGemmlowp, RequantizationRule::kSingle,
                          RequantizationRule::kHalfEven}) {
    EXPECT_EQ(requantized(kLargest, one, rule), kLargest);
    EXPECT_EQ(requantized(-kLargest, one, rule), -kLargest);
    EXPECT_EQ(requantized_code(kLargest, one, 3, -128, 127, rule), 127);
  }
}

TEST(RequantizedSum, AddsOnACommonGrid) {
  const AdditionRatios ratios = addition_ratios(0.02, 0.05, 0.1, 20);
  // 100 * 0.02 + 40 * 0.05 = 4 = 40 * 0.1
  EXPECT_EQ(requantized_sum(100, 40, ratios, 20, RequantizationRule::kSingle), 40);
}

}  // namespace
}  // namespace aimet::core

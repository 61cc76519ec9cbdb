#include "aimet/core/rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace aimet::core {
namespace {

template <typename T>
class RoundHalfEven : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(RoundHalfEven, Types);

TYPED_TEST(RoundHalfEven, TakesTiesToTheEvenNumber) {
  using T = TypeParam;
  EXPECT_EQ(round_half_even(T(0.5)), T(0));
  EXPECT_EQ(round_half_even(T(1.5)), T(2));
  EXPECT_EQ(round_half_even(T(2.5)), T(2));
  EXPECT_EQ(round_half_even(T(-0.5)), T(0));
  EXPECT_EQ(round_half_even(T(-1.5)), T(-2));
  EXPECT_EQ(round_half_even(T(-2.5)), T(-2));
}

TYPED_TEST(RoundHalfEven, KeepsTheSignOfZero) {
  EXPECT_TRUE(std::signbit(round_half_even(TypeParam(-0.25))));
  EXPECT_FALSE(std::signbit(round_half_even(TypeParam(0.25))));
}

TYPED_TEST(RoundHalfEven, ReturnsWhatIsNoNumberAsItIs) {
  using Limits = std::numeric_limits<TypeParam>;
  EXPECT_TRUE(std::isnan(round_half_even(Limits::quiet_NaN())));
  EXPECT_EQ(round_half_even(Limits::infinity()), Limits::infinity());
  EXPECT_EQ(round_half_even(-Limits::infinity()), -Limits::infinity());
  EXPECT_EQ(round_half_even(Limits::denorm_min()), TypeParam(0));
  EXPECT_EQ(round_half_even(Limits::max()), Limits::max());
}

TEST(RoundHalfEvenOfFloat, EqualsTheStandardLibraryForEveryExponent) {
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 7919) {
    const auto pattern = static_cast<std::uint32_t>(bits);
    float x;
    std::memcpy(&x, &pattern, sizeof x);
    if (std::isnan(x)) continue;
    ASSERT_EQ(round_half_even(x), std::nearbyintf(x)) << x;
  }
}

TEST(RoundHalfEvenOfFloat, IsExactAroundTheLargestFraction) {
  for (const float x : {8388607.5f, 8388606.5f, 8388608.0f, 8388609.0f, 16777215.0f, 16777216.0f}) {
    EXPECT_EQ(round_half_even(x), std::nearbyintf(x));
    EXPECT_EQ(round_half_even(-x), std::nearbyintf(-x));
  }
}

TEST(Clamp, KeepsNaN) {
  EXPECT_TRUE(std::isnan(clamp(std::numeric_limits<float>::quiet_NaN(), -1.0f, 1.0f)));
  EXPECT_EQ(clamp(std::numeric_limits<float>::infinity(), -1.0f, 1.0f), 1.0f);
  EXPECT_EQ(clamp(-2.0f, -1.0f, 1.0f), -1.0f);
}

TEST(IsFinite, IsFalseForNaNAndInfinities) {
  EXPECT_TRUE(is_finite(std::numeric_limits<float>::max()));
  EXPECT_TRUE(is_finite(std::numeric_limits<double>::lowest()));
  EXPECT_FALSE(is_finite(std::numeric_limits<float>::infinity()));
  EXPECT_FALSE(is_finite(std::numeric_limits<double>::quiet_NaN()));
}

}  // namespace
}  // namespace aimet::core

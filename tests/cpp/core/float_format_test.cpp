// Formats and shared scales on worked examples; every number of every format: the Python tests.
#include "aimet/core/float_format.h"

#include "aimet/core/microscaling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aimet::core {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr FloatFormat kE4M3 = {4, 3, true, false};
constexpr FloatFormat kE5M2 = {5, 2, false, false};
constexpr FloatFormat kE2M1 = {2, 1, true, false};

float rounded(float x, const FloatFormat& format, bool saturates = true) {
  return round_to_format(x, rounding_of<float>(float_grid(format, saturates)));
}

TEST(FloatGrid, LargestNumbersAreThoseOfTheSpecifications) {
  EXPECT_EQ(float_grid(kE4M3, true).largest, 448.0);
  EXPECT_EQ(float_grid(kE5M2, true).largest, 57344.0);
  EXPECT_EQ(float_grid(kE2M1, true).largest, 6.0);
  EXPECT_EQ(float_grid({3, 2, true, false}, true).largest, 28.0);
  EXPECT_EQ(float_grid({2, 3, true, false}, true).largest, 7.5);
  EXPECT_EQ(float_grid({4, 3, true, true}, true).largest, 240.0);
  EXPECT_EQ(float_grid({5, 10, false, false}, true).largest, 65504.0);
  EXPECT_EQ(float_grid({8, 7, false, false}, true).largest, 0x1.fep127);
}

TEST(RoundToFormat, TiesGoToEvenMantissas) {
  EXPECT_EQ(rounded(1.0625f, kE4M3), 1.0f);
  EXPECT_EQ(rounded(1.1875f, kE4M3), 1.25f);
  EXPECT_EQ(rounded(2.5f, kE2M1), 2.0f);
  EXPECT_EQ(rounded(-5.0f, kE2M1), -4.0f);
  EXPECT_EQ(rounded(std::nextafter(5.0f, 6.0f), kE2M1), 6.0f);
}

TEST(RoundToFormat, SubnormalNumbersAreExact) {
  for (int k = 0; k < 8; ++k) {
    const float number = static_cast<float>(k) * 0x1p-9f;
    EXPECT_EQ(rounded(number, kE4M3), number);
  }
  EXPECT_EQ(rounded(0x1p-10f, kE4M3), 0.0f);
  EXPECT_EQ(rounded(std::nextafter(0x1p-10f, 1.0f), kE4M3), 0x1p-9f);
  EXPECT_TRUE(std::signbit(rounded(-0x1p-11f, kE4M3)));
  EXPECT_FALSE(std::signbit(rounded(-0x1p-15f, {4, 3, true, true})));
}

TEST(RoundToFormat, BeyondTheLargest) {
  EXPECT_EQ(rounded(1e9f, kE4M3), 448.0f);
  EXPECT_EQ(rounded(-kInfinity, kE5M2), -57344.0f);
  EXPECT_EQ(rounded(464.0f, kE4M3, false), 448.0f);
  EXPECT_TRUE(std::isnan(rounded(465.0f, kE4M3, false)));
  EXPECT_EQ(rounded(-61440.0f, kE5M2, false), -kInfinity);
  EXPECT_EQ(rounded(7.0f, kE2M1, false), 6.0f);  // has neither infinity nor NaN
  EXPECT_TRUE(std::isnan(rounded(std::nanf(""), kE2M1)));
}

TEST(MxScale, IsTheExponentOfTheLargestOverThatOfTheElement) {
  const auto scale_of = [](float largest, int exponent) {
    return mx_scale<float>(magnitude_rank(largest), exponent).scale;
  };
  EXPECT_EQ(scale_of(20.0f, 2), 4.0f);
  EXPECT_EQ(scale_of(16.0f, 2), 4.0f);
  EXPECT_EQ(scale_of(std::nextafter(16.0f, 0.0f), 2), 2.0f);
  EXPECT_EQ(scale_of(0.0f, 8), 0x1p-127f);
  EXPECT_EQ(scale_of(0x1p-149f, 0), 0x1p-127f);
  EXPECT_EQ(scale_of(0x1.8p127f, 0), 0x1p127f);
  EXPECT_EQ(magnitude_rank(-kInfinity), 0);
  EXPECT_EQ(magnitude_rank(std::nanf("")), 0);
}

TEST(Nvfp4Scale, IsAnE4M3NumberTimesTheTensorScale) {
  const FloatRounding<float> e4m3 = rounding_of<float>(nvfp4_scale_grid());
  EXPECT_EQ(nvfp4_scale(magnitude_rank(6.0f), 1.0f / 448, e4m3), 1.0f);
  EXPECT_EQ(nvfp4_scale(magnitude_rank(0.0f), 2.0f, e4m3), 0x1p-8f);
  EXPECT_EQ(nvfp4_scale(magnitude_rank(1e9f), 1.0f, e4m3), 448.0f);
}

}  // namespace
}  // namespace aimet::core

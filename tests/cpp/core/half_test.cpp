// Conversions are compared with the compiler's own half type, for every half and for floats around
// each of them.
#include "aimet/core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace aimet::core {
namespace {

TEST(Half, ConvertsEveryValueToFloatAndBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<std::uint16_t>(bits)};
    const float value = to_float(half);
    const std::uint32_t magnitude = bits & 0x7fff;
    if (magnitude > 0x7c00) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(to_half(value).bits, bits | 0x200);
      continue;
    }
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    const int exponent = static_cast<int>(magnitude >> 10);
    const float mantissa = static_cast<float>(magnitude & 0x3ff);
    const float expected = exponent == 31  ? std::numeric_limits<float>::infinity()
                           : exponent == 0 ? std::ldexp(mantissa, -24)
                                           : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(value, sign * expected) << bits;
    EXPECT_EQ(to_half(value).bits, bits);
  }
}

TEST(Half, RoundsMidpointsToEven) {
  for (std::uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = to_float(Half{static_cast<std::uint16_t>(bits)});
    const float high = to_float(Half{static_cast<std::uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;  // exact: a float has 13 bits more
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    EXPECT_EQ(to_half(middle).bits, even) << bits;
    EXPECT_EQ(to_half(std::nextafter(middle, low)).bits, bits) << bits;
    EXPECT_EQ(to_half(std::nextafter(middle, high)).bits, bits + 1) << bits;
    EXPECT_EQ(to_half(-middle).bits, even | 0x8000) << bits;
  }
}

TEST(Half, OverflowsToInfinity) {
  EXPECT_EQ(to_half(65519.996f).bits, 0x7bff);
  EXPECT_EQ(to_half(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_half(std::numeric_limits<float>::max()).bits, 0x7c00);
  EXPECT_EQ(to_half(-std::numeric_limits<float>::infinity()).bits, 0xfc00);
}

TEST(BFloat16, RoundsMidpointsToEven) {
  for (std::uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const float middle = float_of(static_cast<std::int32_t>((bits << 16) | 0x8000));
    EXPECT_EQ(to_bfloat16(middle).bits, bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(to_bfloat16(to_float(BFloat16{static_cast<std::uint16_t>(bits)})).bits, bits);
  }
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
}

}  // namespace
}  // namespace aimet::core

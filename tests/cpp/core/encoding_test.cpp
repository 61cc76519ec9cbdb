#include "aimet/core/encoding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aimet::core {
namespace {

struct RangeCase {
  const char* name;
  int bitwidth;
  bool is_symmetric;
  double scale;
  double offset;
  double min;
  double max;
};

class EncodingOf : public testing::TestWithParam<RangeCase> {};

// Data range [-1.5, 0.9]; symmetric grids are signed, others unsigned.
TEST_P(EncodingOf, MatchesHandWorkedValues) {
  const RangeCase& expected = GetParam();
  const Grid grid = integer_grid(expected.bitwidth, expected.is_symmetric);
  const Range<double> range =
      range_from_min_max(-1.5, 0.9, grid.qmax - grid.qmin, expected.is_symmetric);
  const Encoding<double> encoding =
      encoding_from_range(range, grid.qmin, grid.qmax, expected.is_symmetric);
  EXPECT_NEAR(encoding.scale, expected.scale, 1e-8);
  EXPECT_EQ(encoding.offset, expected.offset);
  EXPECT_NEAR((static_cast<double>(grid.qmin) + encoding.offset) * encoding.scale, expected.min,
              1e-7);
  EXPECT_NEAR((static_cast<double>(grid.qmax) + encoding.offset) * encoding.scale, expected.max,
              1e-7);
}

INSTANTIATE_TEST_SUITE_P(
    Data, EncodingOf,
    testing::Values(RangeCase{"Asymmetric4", 4, false, 0.16, -9, -1.44, 0.96},
                    RangeCase{"Asymmetric8", 8, false, 0.00941176470, -159, -1.4964706, 0.9035294},
                    RangeCase{"Asymmetric16", 16, false, 3.6621653e-5, -40959, -1.4999863,
                              0.9000137},
                    RangeCase{"Symmetric4", 4, true, 0.1875, 0, -1.5, 1.3125},
                    RangeCase{"Symmetric8", 8, true, 0.01171875, 0, -1.5, 1.48828125},
                    RangeCase{"Symmetric16", 16, true, 4.5776367e-5, 0, -1.5, 1.4999542}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(RangeFromMinMax, UsesOneStepMoreForTwoBits) {
  const Range<double> range = range_from_min_max(-0.5, 2.0, 3, true);
  EXPECT_EQ(range.min, -2.0);  // codes -2 .. 1, scale 1: the limit 2.0 lies one step outside
  EXPECT_EQ(range.max, 1.0);
}

TEST(RangeFromMinMax, IncludesZero) {
  EXPECT_EQ(range_from_min_max(2.0, 3.0, 255, false).min, 0.0);
  EXPECT_EQ(range_from_min_max(-3.0, -2.0, 255, false).max, 0.0);
}

TEST(RangeFromMinMax, IsNeverNarrowerThanTheMinimalScale) {
  for (const bool is_symmetric : {false, true}) {
    for (const std::int64_t steps : {1, 3, 15, 254, 255, 65535}) {
      const Range<float> range = range_from_min_max(0.0f, 0.0f, steps, is_symmetric);
      EXPECT_GE((range.max - range.min) / static_cast<float>(steps),
                0.999f * minimal_scale<float>(steps))
          << steps;
      EXPECT_LE(range.min, 0.0f);
      EXPECT_GE(range.max, 0.0f);
    }
  }
}

TEST(RangeFromMinMax, TreatsNothingObservedLikeZeros) {
  const float infinity = std::numeric_limits<float>::infinity();
  const Range<float> nothing = range_from_min_max(infinity, -infinity, 255, false);
  const Range<float> zeros = range_from_min_max(0.0f, 0.0f, 255, false);
  EXPECT_EQ(nothing.min, zeros.min);
  EXPECT_EQ(nothing.max, zeros.max);
}

TEST(RangeFromMinMax, StaysFiniteForHugeValues) {
  const float huge = std::numeric_limits<float>::max();
  for (const bool is_symmetric : {false, true}) {
    const Range<float> range = range_from_min_max(-huge, huge, 255, is_symmetric);
    const Encoding<float> encoding = encoding_from_range(range, 0, 255, is_symmetric);
    EXPECT_TRUE(std::isfinite(encoding.scale));
    EXPECT_TRUE(std::isfinite(encoding.offset));
  }
}

TEST(RangeFromMinMax, KeepsNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(range_from_min_max(nan, 1.0f, 255, false).min));
  EXPECT_TRUE(std::isnan(encoding_from_range(Range<float>{nan, 1.0f}, 0, 255, false).scale));
}

TEST(EncodingFromRange, PutsZeroOnACode) {
  const Encoding<float> encoding = encoding_from_range(Range<float>{-1.0f, 2.0f}, 0, 255, false);
  EXPECT_EQ(encoding.offset, -85.0f);
  const Encoding<float> positive = encoding_from_range(Range<float>{0.5f, 2.0f}, 0, 255, false);
  EXPECT_EQ(positive.offset, 0.0f);  // clamped: zero stays the lowest code
}

TEST(EncodingFromRange, HasAPlainZeroOffsetOnTheSignedGrid) {
  const Encoding<float> encoding = encoding_from_range(Range<float>{-1.0f, 1.0f}, -128, 127, true);
  EXPECT_EQ(encoding.offset, 0.0f);
  EXPECT_FALSE(std::signbit(encoding.offset));
  EXPECT_EQ(encoding_from_range(Range<float>{-1.0f, 1.0f}, 0, 255, true).offset, -128.0f);
}

}  // namespace
}  // namespace aimet::core

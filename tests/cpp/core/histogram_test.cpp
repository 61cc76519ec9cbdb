#include "aimet/core/histogram.h"

#include <gtest/gtest.h>

#include <limits>

namespace aimet::core {
namespace {

constexpr Range<float> kUnit{0.0f, 1.0f};

TEST(BinIndex, DividesTheRangeEqually) {
  EXPECT_EQ(bin_index(0.0f, kUnit, 4), 0);
  EXPECT_EQ(bin_index(0.25f, kUnit, 4), 1);
  EXPECT_EQ(bin_index(0.74f, kUnit, 4), 2);
  EXPECT_EQ(bin_index(1.0f, kUnit, 4), 3);
}

TEST(BinIndex, ClampsToTheEdges) {
  EXPECT_EQ(bin_index(-5.0f, kUnit, 4), 0);
  EXPECT_EQ(bin_index(5.0f, kUnit, 4), 3);
  EXPECT_EQ(bin_index(std::numeric_limits<float>::max(), kUnit, 2048), 2047);
  EXPECT_EQ(bin_index(std::numeric_limits<float>::lowest(), kUnit, 2048), 0);
}

TEST(BinIndex, SurvivesARangeThatOverflows) {
  const float huge = std::numeric_limits<float>::max();
  const std::int32_t index = bin_index(huge, Range<float>{-huge, huge}, 2048);
  EXPECT_GE(index, 0);
  EXPECT_LT(index, 2048);
}

TEST(BinRange, WidensASinglePoint) {
  const Range<float> bins = bin_range(Range<float>{3.0f, 3.0f});
  EXPECT_EQ(bins.min, 2.5f);
  EXPECT_EQ(bins.max, 3.5f);
  EXPECT_EQ(bin_range(kUnit).max, 1.0f);
}

TEST(IsObserved, IsFalseWhereNothingWasSeen) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(is_observed(Range<float>{infinity, -infinity}));
  EXPECT_FALSE(is_observed(Range<float>{std::numeric_limits<float>::quiet_NaN(), 1.0f}));
  EXPECT_TRUE(is_observed(Range<float>{2.0f, 2.0f}));
}

TEST(SplitBin, MovesWholeBinsThatFit) {
  // Bins of 1/4 in bins of 1/2: bin 1 lies in new bin 0, bin 2 in new bin 1.
  const Range<float> wide{0.0f, 2.0f};
  EXPECT_EQ(split_bin<float>(1, 10, kUnit, wide, 4).index, 0);
  EXPECT_EQ(split_bin<float>(1, 10, kUnit, wide, 4).first, 10);
  EXPECT_EQ(split_bin<float>(2, 10, kUnit, wide, 4).index, 1);
}

TEST(SplitBin, DividesBinsThatCrossABorder) {
  // Old bins [0.5, 0.75), new bins of 0.3 from -0.1: border at 0.5, 0.8. Bin 1, [0.25, 0.5), lies
  // in [0.2, 0.5).
  const Range<double> wide{-0.1, 1.1};
  const BinSplit inside = split_bin<double>(1, 8, {0.0, 1.0}, wide, 4);
  EXPECT_EQ(inside.index, 1);
  EXPECT_EQ(inside.first, 8);
  // Bin 0, [0, 0.25), crosses 0.2: four fifths go to the first bin.
  const BinSplit crossing = split_bin<double>(0, 10, {0.0, 1.0}, wide, 4);
  EXPECT_EQ(crossing.index, 0);
  EXPECT_EQ(crossing.first, 8);
}

}  // namespace
}  // namespace aimet::core

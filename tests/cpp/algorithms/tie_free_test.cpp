#include "aimet/algorithms/tie_free.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

double one(double multiplier, double tolerance) {
  return aimet::tie_free_multiplier(at::tensor({multiplier}, at::kDouble), tolerance)
      .item<double>();
}

TEST(TieFreeMultiplier, KeepsFractionsWithSmallOddDenominators) {
  EXPECT_EQ(one(1.0 / 3.0, 1e-4), 1.0 / 3.0);
  EXPECT_EQ(one(2.0, 1e-4), 2.0);
}

TEST(TieFreeMultiplier, MovesFractionsWithEvenDenominators) {
  const double moved = one(0.5, 1e-3);
  EXPECT_EQ(moved, 500.0 / 1001.0);  // 0.5 * 1001 = 500.5 rounds to the even 500
  EXPECT_LE(std::abs(moved / 0.5 - 1.0), 1e-3);
}

TEST(TieFreeMultiplier, NoMultipleIsNextToAHalf) {
  const double multiplier = one(0.0123456, 1e-4);
  double closest = 1.0;
  for (int accumulator = 0; accumulator < 100000; ++accumulator) {
    const double result = multiplier * accumulator;
    closest = std::min(closest, std::abs(result - std::floor(result) - 0.5));
  }
  EXPECT_GT(closest, 1e-4);
  EXPECT_NEAR(multiplier / 0.0123456, 1.0, 1e-4);
}

TEST(TieFreeMultiplier, LeavesWhatHasNoFractionNearEnough) {
  EXPECT_EQ(one(1e-9, 1e-4), 1e-9);
  EXPECT_EQ(one(0.0, 1e-4), 0.0);
  EXPECT_TRUE(std::isnan(one(std::numeric_limits<double>::quiet_NaN(), 1e-4)));
}

TEST(TieFreeMultiplier, RejectsAToleranceOutsideItsRange) {
  EXPECT_THROW(one(0.5, 0.0), c10::ValueError);
  EXPECT_THROW(one(0.5, 1.0), c10::ValueError);
}

}  // namespace

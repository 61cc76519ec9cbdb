// Expected values: worked by hand from the formulas of docs/numerics.md.
#include "aimet/core/affine.h"

#include "aimet/core/grid.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace aimet::core {
namespace {

// 8 bits, asymmetric, range [-1.5, 0.9]: scale 2.4 / 255, zero at code 159.
constexpr AffineParams<double> kParams{2.4 / 255, -159, 0, 255};

TEST(IntegerGrid, FollowsBitwidthAndSign) {
  EXPECT_EQ(integer_grid(8, true).qmin, -128);
  EXPECT_EQ(integer_grid(8, true).qmax, 127);
  EXPECT_EQ(integer_grid(8, true, true).qmin, -127);
  EXPECT_EQ(integer_grid(4, false).qmin, 0);
  EXPECT_EQ(integer_grid(4, false).qmax, 15);
  EXPECT_EQ(integer_grid(32, false).qmax, 4294967295);
  EXPECT_EQ(integer_grid(32, true).qmin, -2147483648);
}

TEST(GridSteps, GivesTheNegativeSideTheOddStep) {
  const GridSteps steps = grid_steps(-128, 127);
  EXPECT_EQ(steps.total, 255);
  EXPECT_EQ(steps.negative, 128);
  EXPECT_EQ(steps.positive, 127);
  EXPECT_EQ(grid_steps(-127, 127).negative, 127);
}

TEST(Quantize, RoundsAndClamps) {
  EXPECT_EQ(quantize(-2.0, kParams), 0);
  EXPECT_EQ(quantize(-1.0, kParams), 53);
  EXPECT_EQ(quantize(0.0, kParams), 159);
  EXPECT_EQ(quantize(0.5, kParams), 212);
  EXPECT_EQ(quantize(3.0, kParams), 255);
  EXPECT_EQ(quantize(std::numeric_limits<double>::infinity(), kParams), 255);
  EXPECT_TRUE(std::isnan(quantize(std::numeric_limits<double>::quiet_NaN(), kParams)));
}

TEST(Quantize, DividesInsteadOfMultiplyingByTheReciprocal) {
  // 0.15f / 0.1f is 1.5f, a tie that goes to 2; 0.15f * (1 / 0.1f) may fall below it.
  const AffineParams<float> params{0.1f, 0, -8, 7};
  EXPECT_EQ(quantize(0.15f, params), round_half_even(0.15f / 0.1f));
  const AffineParams<float> third{3.0f, 0, -128, 127};
  EXPECT_EQ(quantize(1.5f, third), 0.0f);
  EXPECT_EQ(quantize(4.5f, third), 2.0f);
}

TEST(QuantizeDequantize, LandsOnTheGrid) {
  EXPECT_DOUBLE_EQ(quantize_dequantize(-2.0, kParams), -159 * 2.4 / 255);
  EXPECT_DOUBLE_EQ(quantize_dequantize(0.5, kParams), 53 * 2.4 / 255);
  EXPECT_EQ(quantize_dequantize(-0.0047, kParams), 0.0);
}

struct GradientCase {
  double x;
  bool inside;
  double scale;
};

class QuantizeDequantizeGradient : public testing::TestWithParam<GradientCase> {};

TEST_P(QuantizeDequantizeGradient, IsStraightThrough) {
  const GradientCase& expected = GetParam();
  const AffineGradient<double> gradient = quantize_dequantize_gradient(2.0, expected.x, kParams);
  EXPECT_EQ(gradient.input, expected.inside ? 2.0 : 0.0);
  EXPECT_NEAR(gradient.scale, 2 * expected.scale, 1e-9);
  EXPECT_EQ(gradient.offset, expected.inside ? 0.0 : 2 * kParams.scale);
}

INSTANTIATE_TEST_SUITE_P(
    WorkedByHand, QuantizeDequantizeGradient,
    testing::Values(GradientCase{-2.0, false, -159}, GradientCase{-1.0, true, 0.25},
                    GradientCase{-0.0047, true, 0.499375}, GradientCase{0.0, true, 0},
                    GradientCase{0.5, true, -0.125}, GradientCase{0.9, true, 0.375},
                    GradientCase{3.0, false, 96}));

}  // namespace
}  // namespace aimet::core

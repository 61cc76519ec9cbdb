// From a layer's inputs to its integers, as a program without Python calls it.
#include "aimet/algorithms/rounding.h"

#include "aimet/algorithms/layer_moments.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <gtest/gtest.h>

namespace {

using aimet::LayerMoments;

LayerMoments empty_moments(int64_t groups, int64_t outputs, int64_t inputs) {
  const auto sums = [](at::IntArrayRef shape) { return at::zeros(shape, at::kDouble); };
  return {sums({groups, inputs, inputs}), sums({groups, outputs, inputs}), sums({groups, inputs}),
          sums({groups, outputs}), sums({groups})};
}

TEST(Rounding, LowersTheErrorOfAConvolution) {
  const at::Tensor weight = at::randn({8, 4, 3, 3});
  const at::Tensor mixing = at::randn({4, 4, 1, 1});
  const at::Tensor x = at::conv2d(at::randn({4, 4, 12, 12}), mixing);
  const at::Tensor y = at::conv2d(x, weight, {}, 1, 1);
  const aimet::LayerGeometry geometry{{3, 3}, {1, 1}, {1, 1}, {1, 1}};
  LayerMoments moments = empty_moments(1, 8, 36);
  aimet::accumulate_layer_moments_(moments, x, y, geometry, std::nullopt);
  EXPECT_EQ(moments.total.item<double>(), 4 * 12 * 12);

  const at::Tensor rows = weight.reshape({1, 8, 36});
  const auto problem = aimet::rounding_problem(moments, rows, false, 1e-3);
  const auto [scale, offset] =
      aimet::search_weight_scales(rows, at::Tensor(at::zeros({0})), 1, -4, 3, true);
  const auto [codes, used, objective] = aimet::optimize_rounding(problem, scale, offset, -4, 3, {});
  const auto error = [&](const at::Tensor& values) {
    const at::Tensor quantized = values.to(at::kFloat).reshape(weight.sizes());
    return (at::conv2d(x, quantized, {}, 1, 1) - y).square().mean().item<double>();
  };
  const at::Tensor nearest = (rows.to(at::kDouble) / scale).round().clamp(-4, 3) * scale;
  EXPECT_LT(error(codes * used), 0.7 * error(nearest));
  EXPECT_GT(objective.min().item<double>(), 0);
}

TEST(Rounding, WithAnIdentityIsNearest) {
  const at::Tensor target = at::randn({1, 19, 33}, at::kDouble);
  const at::Tensor scale = at::ones({1, 19, 1}, at::kDouble) * 0.3;
  const auto [codes, used, objective] =
      aimet::optimize_rounding({target, at::eye(33, at::kDouble).unsqueeze(0)}, scale,
                               at::zeros({1, 19, 1}, at::kDouble), -8, 7, {.max_sweeps = 0});
  EXPECT_TRUE(codes.equal((target / 0.3).round().clamp(-8, 7)));
}

TEST(Rounding, RejectsSumsOfAnotherShape) {
  LayerMoments moments = empty_moments(1, 8, 36);
  EXPECT_THROW(aimet::accumulate_layer_moments_(moments, at::randn({5, 3}), at::randn({5, 8}), {},
                                                std::nullopt),
               c10::ValueError);
}

}  // namespace

// Ranges after equalization, unchanged outputs, and what happens to weights that cannot be
// equalized.
#include "aimet/algorithms/cross_layer_equalization.h"

#include <ATen/ops/diag.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logspace.h>
#include <c10/util/Exception.h>

#include <gtest/gtest.h>

#include "networks.h"

#include <cmath>
#include <limits>
#include <string>

namespace aimet::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor output_ranges(const Layer& layer) {
  return grouped_weight(layer).abs().amax({2, 3}).flatten();
}
at::Tensor input_ranges(const Layer& layer) {
  return grouped_weight(layer).abs().amax({1, 3}).flatten();
}

// Two linear layers with these ranges of the channels between them.
std::vector<Layer> pair_with_ranges(const std::vector<double>& first,
                                    const std::vector<double>& second) {
  return {{at::diag(vector_of(first)), vector_of(first)}, {vector_of(second).unsqueeze(0), {}}};
}

Layer depthwise(int64_t channels, bool transposed = false) {
  return {at::randn({channels, 1, 3, 3}, at::kDouble), at::randn({channels}, at::kDouble), channels,
          transposed};
}

// Channels of very different ranges, as batch normalization leaves them.
Layer uneven(Layer layer) {
  const at::Tensor factors = at::logspace(-2, 1, outputs_of(layer), 10.0, at::kDouble);
  layer.weight.copy_(
      ungrouped_weight(grouped_weight(layer) * along_outputs(factors, layer), layer));
  return layer;
}

// A ReLU after each layer but the last.
at::Tensor run_all(const std::vector<Layer>& layers, at::Tensor value) {
  for (const Layer& layer : layers) {
    value = run(layer, value);
    if (&layer != &layers.back()) value = value.relu();
  }
  return value;
}

TEST(EqualizeCrossLayers, GivesBothLayersOfAPairTheGeometricMean) {
  const std::vector<Layer> layers = pair_with_ranges({4.0, 1.0, 0.5}, {1.0, 4.0, 0.5});
  const EqualizationResult result = equalize_cross_layers_(layers, {{0, 1}});
  ASSERT_EQ(result.scales.size(), 1);
  EXPECT_LT(largest_difference(result.scales[0], vector_of({2.0, 0.5, 1.0})), 1e-15);
  EXPECT_LT(largest_difference(output_ranges(layers[0]), vector_of({2.0, 2.0, 0.5})), 1e-15);
  EXPECT_LT(largest_difference(input_ranges(layers[1]), vector_of({2.0, 2.0, 0.5})), 1e-15);
  EXPECT_LT(largest_difference(layers[0].bias, vector_of({2.0, 2.0, 0.5})), 1e-15);
}

TEST(EqualizeCrossLayers, GivesAllLayersOfATripletTheGeometricMean) {
  const std::vector<Layer> layers = {{at::full({1, 1, 1, 1}, 4.0, at::kDouble)},
                                     {at::full({1, 1, 3, 3}, 1.0, at::kDouble)},
                                     {at::full({1, 1, 1, 1}, 0.25, at::kDouble)}};
  const EqualizationResult result = equalize_cross_layers_(layers, {{0, 1, 2}});
  ASSERT_EQ(result.scales.size(), 2);
  EXPECT_NEAR(result.scales[0].item<double>(), 4.0, 1e-14);
  EXPECT_NEAR(result.scales[1].item<double>(), 4.0, 1e-14);
  for (const Layer& layer : layers) EXPECT_NEAR(layer.weight.max().item<double>(), 1.0, 1e-15);
}

struct Case {
  const char* name;
  std::vector<Layer> layers;
  std::vector<std::vector<int64_t>> chains;
};

Case network(int index) {
  switch (index) {
    case 0:
      return {
          "linear", {random_layer(0, 1, false, true), {at::randn({3, 6}, at::kDouble)}}, {{0, 1}}};
    case 1:
      return {"conv1d",
              {uneven(random_layer(1, 1, false, true)), {at::randn({2, 6, 3}, at::kDouble)}},
              {{0, 1}}};
    case 2:
      return {
          "grouped",
          {uneven(random_layer(2, 2, false, true)), {at::randn({9, 4, 3, 3}, at::kDouble), {}, 3}},
          {{0, 1}}};
    case 3:
      return {"transposed",
              {uneven(random_layer(2, 3, true, true)),
               {at::randn({18, 2, 3, 3}, at::kDouble), {}, 2, true}},
              {{0, 1}}};
    case 4:
      return {"chain_of_five",
              {uneven(random_layer(2, 1, false, true)),
               depthwise(6),
               depthwise(6, true),
               depthwise(6),
               {at::randn({3, 6, 1, 1}, at::kDouble)}},
              {{0, 1, 2, 3, 4}}};
    case 5:
      return {"depthwise_ends", {depthwise(4), depthwise(4, true)}, {{0, 1}}};
    default:
      return {"shared_layers",
              {uneven(random_layer(2, 1, false, true)),
               depthwise(6),
               uneven({at::randn({5, 6, 1, 1}, at::kDouble), at::randn({5}, at::kDouble)}),
               {at::randn({4, 5, 1, 1}, at::kDouble)}},
              {{0, 1, 2}, {2, 3}}};
  }
}

class EveryNetwork : public testing::TestWithParam<int> {};

TEST_P(EveryNetwork, KeepsItsOutputs) {
  const Case c = network(GetParam());
  std::vector<int64_t> shape = {2, inputs_of(c.layers[0])};
  for (int64_t dim = 2; dim < c.layers[0].weight.dim(); ++dim) shape.push_back(9);
  const at::Tensor input = at::randn(shape, at::kDouble);
  const at::Tensor expected = run_all(c.layers, input);
  ASSERT_GT(expected.abs().max().item<double>(), 0.0);
  const at::Tensor weight_before = c.layers[0].weight.clone();
  equalize_cross_layers_(c.layers, c.chains);
  EXPECT_FALSE(c.layers[0].weight.equal(weight_before)) << c.name;
  const double largest = expected.abs().max().item<double>();
  EXPECT_LT(largest_difference(run_all(c.layers, input), expected) / largest, 1e-13) << c.name;
}

TEST_P(EveryNetwork, EndsWithEqualRangesInEveryChain) {
  const Case c = network(GetParam());
  const EqualizationResult result = equalize_cross_layers_(c.layers, c.chains, {200, 1e-9, 1e6});
  EXPECT_LT(result.sweep_count, 200) << c.name;
  for (const std::vector<int64_t>& chain : c.chains) {
    const at::Tensor first = output_ranges(c.layers[chain.front()]);
    for (size_t position = 1; position < chain.size(); ++position) {
      const at::Tensor ratio = input_ranges(c.layers[chain[position]]) / first;
      EXPECT_LT((ratio - 1.0).abs().max().item<double>(), 1e-8) << c.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Networks, EveryNetwork, testing::Range(0, 7));

TEST(EqualizeCrossLayers, CountsThePositionsOfAFlattenedInputAsKernel) {
  const Layer conv = uneven(random_layer(2, 1, false, true));
  const Layer linear{at::randn({3, 6 * 9}, at::kDouble)};  // 6 channels of 3 x 3 positions
  const at::Tensor input = at::randn({2, 4, 5, 5}, at::kDouble);
  const auto run_both = [&] { return run(linear, run(conv, input).relu().flatten(1)); };
  const at::Tensor expected = run_both();
  const at::Tensor before = conv.weight.clone();
  equalize_cross_layers_({conv, linear}, {{0, 1}});
  EXPECT_FALSE(conv.weight.equal(before));
  EXPECT_LT(largest_difference(run_both(), expected), 1e-12);
}

TEST(EqualizeCrossLayers, LeavesChannelsWithoutAFiniteRangeAlone) {
  const std::vector<Layer> layers =
      pair_with_ranges({0.0, 2.0, kNaN, kInfinity, 2.0, 16.0}, {2.0, 0.0, 2.0, 2.0, kNaN, 1.0});
  const EqualizationResult result = equalize_cross_layers_(layers, {{0, 1}});
  EXPECT_LT(largest_difference(result.scales[0], vector_of({1.0, 1.0, 1.0, 1.0, 1.0, 4.0})), 1e-14);
  EXPECT_TRUE(std::isnan(layers[0].weight[2][2].item<double>()));
  EXPECT_EQ(layers[0].weight[3][3].item<double>(), kInfinity);
  EXPECT_EQ(layers[0].weight[1][1].item<double>(), 2.0);
  EXPECT_TRUE(std::isnan(layers[1].weight[0][4].item<double>()));
}

TEST(EqualizeCrossLayers, BoundsTheScaleOfHugeAndTinyWeights) {
  const std::vector<Layer> layers = pair_with_ranges({1e30, 1e-30, 1.0}, {1e-30, 1e30, 1.0});
  const EqualizationResult result = equalize_cross_layers_(layers, {{0, 1}}, {50, 1e-3, 64.0});
  EXPECT_LT(largest_difference(result.scales[0] / vector_of({64.0, 1.0 / 64.0, 1.0}),
                               vector_of({1, 1, 1})),
            1e-12);
  EXPECT_LT(std::abs(layers[0].weight[0][0].item<double>() / (1e30 / 64.0) - 1.0), 1e-12);
}

TEST(EqualizeCrossLayers, StopsWhenNothingMovesOrAfterTheLastSweep) {
  const Case c = network(6);
  EXPECT_EQ(equalize_cross_layers_(c.layers, c.chains, {1, 1e-3, 1024.0}).sweep_count, 1);
  EXPECT_GT(equalize_cross_layers_(c.layers, c.chains, {50, 1e-6, 1024.0}).sweep_count, 1);
  EXPECT_EQ(equalize_cross_layers_(c.layers, c.chains, {50, 1e-4, 1024.0}).sweep_count, 1);
  EXPECT_EQ(equalize_cross_layers_(c.layers, {}).sweep_count, 0);
}

TEST(EqualizeCrossLayers, KeepsTheDtypeOfEachLayer) {
  const std::vector<Layer> exact = pair_with_ranges({4.0, 1.0}, {1.0, 4.0});
  const std::vector<Layer> layers = {{exact[0].weight.to(at::kHalf), exact[0].bias.to(at::kFloat)},
                                     {exact[1].weight.to(at::kBFloat16)}};
  equalize_cross_layers_(layers, {{0, 1}});
  EXPECT_EQ(layers[0].weight[0][0].item<double>(), 2.0);
  EXPECT_EQ(layers[0].bias[1].item<double>(), 2.0);
  EXPECT_EQ(layers[1].weight[0][1].item<double>(), 2.0);
}

TEST(EqualizeCrossLayers, RefusesWhatCannotBeAChainAndChangesNothing) {
  const std::vector<Layer> layers = {random_layer(2, 1, false, true),
                                     {at::randn({6, 6, 1, 1}, at::kDouble)},
                                     {at::randn({2, 6, 1, 1}, at::kDouble)}};
  const at::Tensor before = layers[0].weight.clone();
  const auto message = [&](const std::vector<Layer>& network,
                           const std::vector<std::vector<int64_t>>& chains,
                           const EqualizationOptions& options = {}) -> std::string {
    try {
      equalize_cross_layers_(network, chains, options);
    } catch (const c10::ValueError& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  const auto expect_in = [](const std::string& text, const std::string& whole) {
    EXPECT_NE(whole.find(text), std::string::npos) << whole;
  };
  expect_in("layer 1 in the middle of chain 0 must be depthwise", message(layers, {{0, 1, 2}}));
  expect_in("a chain must have at least 2 layers, chain 1 has 1", message(layers, {{0, 1}, {2}}));
  expect_in("names layer 3, but there are 3", message(layers, {{0, 3}}));
  expect_in("the outputs of layer 0 are in two chains", message(layers, {{0, 1}, {0, 2}}));
  expect_in("the inputs of layer 2 are in two chains", message(layers, {{0, 2}, {1, 2}}));
  expect_in("has 4 input channels, but the layer before it has 2", message(layers, {{2, 0}}));
  expect_in("is also the weight of an earlier layer", message({layers[0], layers[0]}, {{0, 1}}));
  expect_in("weights[1] has no elements",
            message({layers[0], {at::randn({0, 6, 1, 1}, at::kDouble)}}, {{0, 1}}));
  expect_in("`max_sweeps` must be positive, got 0", message(layers, {{0, 1}}, {0, 1e-3, 2.0}));
  expect_in("`tolerance` must not be negative, got -1", message(layers, {{0, 1}}, {1, -1.0, 2.0}));
  expect_in("`max_scale` must be at least 1 and finite, got 0.5",
            message(layers, {{0, 1}}, {1, 1.0, 0.5}));
  EXPECT_TRUE(layers[0].weight.equal(before));
}

}  // namespace
}  // namespace aimet::test

// Cross-layer equalization and AdaRound on tensors: two linear layers with a ReLU between them.
#include <aimet/aimet.h>
#include <torch/torch.h>

#include <iomanip>
#include <iostream>

constexpr int kInputs = 24, kHidden = 32, kOutputs = 8, kMin = -4, kMax = 3;  // 3 bits

torch::Tensor network(const torch::Tensor& x, const torch::Tensor& first,
                      const torch::Tensor& second) {
  return torch::linear(torch::linear(x, first).relu(), second);
}

// One step for the whole weight, from its limits.
torch::Tensor rounded_to_nearest(const torch::Tensor& weight) {
  const auto [least, greatest] = aimet::min_max(weight, {});
  const auto [min, max] = aimet::range_from_min_max(least, greatest, kMin, kMax, true);
  const auto [scale, offset] = aimet::encoding_from_range(min, max, kMin, kMax, true);
  return aimet::quantize_dequantize(weight, scale, offset, kMin, kMax);
}

void report(const char* name, const torch::Tensor& y, const torch::Tensor& expected) {
  const torch::Tensor noise = (y - expected).square().mean() / expected.square().mean();
  std::cout << std::setprecision(9) << name << ": " << noise.item<float>() << '\n';
}

int main() {
  torch::manual_seed(0);
  const torch::Tensor x = torch::randn({512, 6}).matmul(torch::randn({6, kInputs}));  // correlated
  torch::Tensor first = torch::randn({kHidden, kInputs}) * torch::randn({kHidden, 1}).exp();
  torch::Tensor second = torch::randn({kOutputs, kHidden}) / kHidden;
  const torch::Tensor expected = network(x, first, second);
  report("nearest", network(x, rounded_to_nearest(first), rounded_to_nearest(second)), expected);

  // Channels get equal ranges; what the network computes stays.
  const std::vector<aimet::Layer> layers = {{first}, {second}};
  aimet::equalize_cross_layers_(layers, {{0, 1}});
  report("equalized, not rounded", network(x, first, second), expected);
  report("equalized", network(x, rounded_to_nearest(first), rounded_to_nearest(second)), expected);

  // AdaRound: second moments of what enters the first layer, then its integers.
  aimet::LayerMoments moments = {torch::zeros({1, kInputs, kInputs}, torch::kDouble),
                                 torch::zeros({1, kHidden, kInputs}, torch::kDouble),
                                 torch::zeros({1, kInputs}, torch::kDouble),
                                 torch::zeros({1, kHidden}, torch::kDouble),
                                 torch::zeros({1}, torch::kDouble)};
  aimet::accumulate_layer_moments_(moments, x, torch::linear(x, first), {}, std::nullopt);
  const torch::Tensor weight = first.unsqueeze(0);  // (groups, outputs, inputs)
  const auto problem = aimet::rounding_problem(moments, weight, /*has_bias=*/false, 1e-3);
  const auto [scale, offset] = aimet::search_weight_scales(
      weight, torch::empty({0}, torch::kDouble), /*blocks=*/1, kMin, kMax, /*symmetric=*/true);
  const torch::Tensor codes =
      aimet::relax_rounding(problem, scale, offset, kMin, kMax, {.iterations = 2000});
  const torch::Tensor chosen = (codes * scale).squeeze(0).to(torch::kFloat);
  const torch::Tensor nearest = (weight / scale).round().clamp(kMin, kMax) * scale;
  const torch::Tensor y = torch::linear(x, first);
  report("first layer, nearest", torch::linear(x, nearest.squeeze(0).to(torch::kFloat)), y);
  report("first layer, AdaRound", torch::linear(x, chosen), y);
}

// Calibrates a quantizer on batches of data, by each way to find a range.
#include <aimet/aimet.h>
#include <torch/torch.h>

#include <iomanip>
#include <iostream>
#include <string>
#include <tuple>

using Range = std::tuple<torch::Tensor, torch::Tensor>;

constexpr int kBins = 512, kMin = 0, kMax = 15;  // 4 bits without sign
constexpr bool kSymmetric = false;

// A histogram over limits that grow with the data.
struct Statistics {
  torch::Tensor min = torch::full({}, INFINITY), max = torch::full({}, -INFINITY);
  torch::Tensor histogram = torch::zeros({kBins}, torch::kLong);

  void observe(const torch::Tensor& batch) {
    const auto [low, high] = aimet::min_max(batch, {});
    const torch::Tensor wider_min = torch::minimum(min, low), wider_max = torch::maximum(max, high);
    histogram = aimet::rebin_histogram(histogram, min, max, wider_min, wider_max);
    std::tie(min, max) = std::tie(wider_min, wider_max);
    aimet::update_histogram_(histogram, batch, min, max);
  }
};

int main() {
  torch::manual_seed(0);
  Statistics seen;
  std::vector<torch::Tensor> batches;
  for (int i = 0; i < 4; ++i) batches.push_back(torch::randn({1000}).abs().pow(1.5));
  for (const torch::Tensor& batch : batches) seen.observe(batch);

  const auto& [min, max, histogram] = std::tie(seen.min, seen.max, seen.histogram);
  const std::pair<const char*, Range> ranges[] = {
      {"min_max", aimet::range_from_min_max(min, max, kMin, kMax, kSymmetric)},
      {"percentile",
       aimet::range_from_percentile(histogram, min, max, 99.5, kMin, kMax, kSymmetric)},
      {"sqnr", aimet::range_from_sqnr(histogram, min, max, kMin, kMax, kSymmetric)},
      {"mse", aimet::range_from_mse(histogram, min, max, kMin, kMax, kSymmetric)},
      {"entropy", aimet::range_from_entropy(histogram, min, max, kMin, kMax, kSymmetric)},
      {"values", aimet::range_from_values(torch::cat(batches), {}, kMin, kMax, kSymmetric)}};
  const torch::Tensor data = torch::cat(batches);
  for (const auto& [name, range] : ranges) {
    const auto& [low, high] = range;
    const auto [scale, offset] = aimet::encoding_from_range(low, high, kMin, kMax, kSymmetric);
    const torch::Tensor error =
        (aimet::quantize_dequantize(data, scale, offset, kMin, kMax) - data).square().mean();
    std::cout << std::setprecision(9) << name << ": " << low.item<float>() << ' '
              << high.item<float>() << ' ' << error.item<float>() << '\n';
  }
}

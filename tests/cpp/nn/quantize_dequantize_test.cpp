// The module as a LibTorch program uses it: gradients against formulas written with autograd's own
// operations, calibration against the operators, training, copies, checkpoints, errors.
#include "aimet/nn/quantize_dequantize.h"

#include "aimet/aimet.h"

#include <ATen/Parallel.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include <gtest/gtest.h>

#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace aimet::nn {
namespace {

using torch::Tensor;
using Options = QuantizeDequantizeOptions;

Options weights(std::int64_t bits, std::vector<std::int64_t> shape) {
  return Options().bitwidth(bits).symmetric(true).shape(std::move(shape));
}

// Rounding whose derivative is 1, without an operator of ours.
Tensor rounded(const Tensor& x) {
  return x + (x.round() - x).detach();
}

// docs/numerics.md, "Encodings" and "Gradients".
Tensor reference(const Tensor& x, const Tensor& min, const Tensor& max, std::int64_t qmin,
                 std::int64_t qmax, bool symmetric) {
  const Tensor scale = (max - min) / static_cast<double>(qmax - qmin);
  const Tensor offset =
      symmetric ? torch::zeros_like(scale) : (rounded(min / scale) - qmin).clamp(-qmax, -qmin);
  const Tensor codes = (rounded(x / scale) - offset).clamp(qmin, qmax);
  return (codes + offset) * scale;
}

// Whether `function` throws an error whose message has every one of `parts`.
template <typename Function>
testing::AssertionResult throws(const Function& function, std::vector<std::string> parts) {
  std::string message = "nothing was thrown";
  try {
    function();
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  }
  for (const std::string& part : parts) {
    if (message.find(part) == std::string::npos) {
      return testing::AssertionFailure() << '"' << part << "\" is not in: " << message;
    }
  }
  return testing::AssertionSuccess();
}

TEST(QuantizeDequantizeModule, HasTheGradientsOfTheFormulas) {
  torch::manual_seed(0);
  for (const bool symmetric : {false, true}) {
    for (const bool per_channel : {false, true}) {
      std::vector<std::int64_t> shape;
      if (per_channel) shape = {5, 1};
      QuantizeDequantize quantizer(Options().bitwidth(4).symmetric(symmetric).shape(shape));
      quantizer->to(torch::kDouble);
      const Tensor step = 0.2 + 0.1 * torch::rand(shape, torch::kDouble);
      const double low = symmetric ? -8 : -6.3;
      quantizer->set_range(low * step, (low + 15) * step);

      const Tensor data = 2 * torch::randn({5, 40}, torch::kDouble);
      const Tensor slope = torch::randn({5, 40}, torch::kDouble);
      Tensor x = data.clone().requires_grad_();
      quantizer(x).backward(slope);

      Tensor expected_x = data.clone().requires_grad_();
      Tensor min = quantizer->min.detach().clone().requires_grad_();
      Tensor max = quantizer->max.detach().clone().requires_grad_();
      const Tensor expected =
          reference(expected_x, min, max, quantizer->qmin(), quantizer->qmax(), symmetric);
      expected.backward(slope);

      EXPECT_TRUE(torch::allclose(quantizer(x), expected, 1e-12, 1e-12));
      EXPECT_TRUE(torch::allclose(x.grad(), expected_x.grad(), 1e-12, 1e-12));
      EXPECT_TRUE(torch::allclose(quantizer->min.grad(), min.grad(), 1e-10, 1e-10));
      EXPECT_TRUE(torch::allclose(quantizer->max.grad(), max.grad(), 1e-10, 1e-10));
      EXPECT_GT(max.grad().abs().min().item<double>(), 0);
    }
  }
}

TEST(QuantizeDequantizeModule, CalibratesWhatTheOperatorsFind) {
  torch::manual_seed(0);
  const Tensor first = torch::randn({4, 300});
  const Tensor second = 3 * torch::randn({4, 200}) + 1;
  const Tensor all = torch::cat({first, second}, 1);
  {
    QuantizeDequantize quantizer(weights(8, {4, 1}));
    quantizer->begin_calibration();
    EXPECT_TRUE(torch::equal(quantizer(first), first));
    quantizer(second);
    quantizer->end_calibration();
    const auto [least, greatest] = min_max(all, {4, 1});
    const auto [low, high] = range_from_min_max(least, greatest, -128, 127, true);
    EXPECT_TRUE(torch::equal(quantizer->min, low));
    EXPECT_TRUE(torch::equal(quantizer->max, high));
  }
  const auto [least, greatest] = min_max(all, {});
  for (const RangeMethod method :
       {RangeMethod::kPercentile, RangeMethod::kSqnr, RangeMethod::kMse, RangeMethod::kEntropy}) {
    QuantizeDequantize quantizer(Options().bitwidth(4).range_method(method).percentile(99));
    quantizer->calibrate(all);
    Tensor histogram = torch::zeros({2048}, torch::kLong);
    update_histogram_(histogram, all, least, greatest);
    const auto [low, high] =
        method == RangeMethod::kPercentile
            ? range_from_percentile(histogram, least, greatest, 99, 0, 15, false)
        : method == RangeMethod::kSqnr ? range_from_sqnr(histogram, least, greatest, 0, 15, false)
        : method == RangeMethod::kMse
            ? range_from_mse(histogram, least, greatest, 0, 15, false)
            : range_from_entropy(histogram, least, greatest, 0, 15, false);
    EXPECT_TRUE(torch::equal(quantizer->min, low));
    EXPECT_TRUE(torch::equal(quantizer->max, high));
    EXPECT_LT((high - low).item<float>(), (greatest - least).item<float>());
    // In two parts, the bins of the first are divided among wider ones.
    QuantizeDequantize parts(quantizer->options);
    parts->begin_calibration();
    parts(first);
    parts(second);
    parts->end_calibration();
    EXPECT_TRUE(torch::allclose(parts->max, high, 0.05, 0.05));
  }
}

TEST(QuantizeDequantizeModule, KeepsItsRangeWithoutFiniteValues) {
  QuantizeDequantize quantizer;
  quantizer->set_range(torch::tensor(-1.0f), torch::tensor(1.0f));
  const Tensor nothing = torch::full({3}, std::numeric_limits<float>::infinity());
  EXPECT_TRUE(throws([&] { quantizer->calibrate(nothing); },
                     {"no finite value was observed, the range stays as it was"}));
  EXPECT_EQ(quantizer->max.item<float>(), 1);
  EXPECT_FALSE(quantizer->is_calibrating());
  quantizer->freeze();
  quantizer->calibrate(torch::randn({100}) * 9);
  EXPECT_EQ(quantizer->max.item<float>(), 1);
  EXPECT_FALSE(quantizer->max.requires_grad());
}

// Two layers with quantizers for weights and activations, in 4 bits.
struct Network : torch::nn::Module {
  Network() {
    for (int i = 0; i < 2; ++i) {
      const std::string number = std::to_string(i);
      layers[i] = register_module("layer" + number, torch::nn::Linear(i ? 16 : 2, i ? 3 : 16));
      weight[i] =
          register_module("weight" + number, QuantizeDequantize(weights(4, {i ? 3 : 16, 1})));
      output[i] = register_module("output" + number, QuantizeDequantize(Options().bitwidth(4)));
      weight[i]->calibrate(layers[i]->weight);
    }
  }
  Tensor forward(Tensor x) {
    for (int i = 0; i < 2; ++i) {
      x = torch::linear(x, weight[i](layers[i]->weight), layers[i]->bias);
      x = output[i](i ? x : x.relu());
    }
    return x;
  }
  torch::nn::Linear layers[2] = {nullptr, nullptr};
  QuantizeDequantize weight[2] = {nullptr, nullptr};
  QuantizeDequantize output[2] = {nullptr, nullptr};
};

TEST(QuantizeDequantizeModule, TrainsANetwork) {
  torch::manual_seed(0);
  at::set_num_threads(1);  // the tensors are small
  const Tensor x = torch::rand({512, 2}) * 4 - 2;
  const Tensor labels = (x.norm(2, 1) * 1.5).floor().clamp(0, 2).to(torch::kLong);
  Network network;
  calibrate(network, [&] { network.forward(x); });
  const Tensor before = network.output[0]->max.detach().clone();
  const auto loss_of = [&] {
    return torch::nn::functional::cross_entropy(network.forward(x), labels);
  };
  const float first = loss_of().item<float>();
  torch::optim::SGD optimizer(network.parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  for (int step = 0; step < 150; ++step) {
    optimizer.zero_grad();
    loss_of().backward();
    if (step == 0) {
      for (const auto& parameter : network.named_parameters()) {
        ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
        EXPECT_GT(parameter.value().grad().abs().sum().item<float>(), 0) << parameter.key();
      }
    }
    optimizer.step();
  }
  EXPECT_LT(loss_of().item<float>(), first / 2);
  EXPECT_FALSE(torch::equal(network.output[0]->max, before));

  std::stringstream file;
  torch::serialize::OutputArchive saved;
  network.save(saved);
  saved.save_to(file);
  Network other;
  torch::serialize::InputArchive archive;
  archive.load_from(file);
  other.load(archive);
  EXPECT_TRUE(torch::equal(other.forward(x), network.forward(x)));
}

TEST(QuantizeDequantizeModule, BelongsIntoSequential) {
  torch::nn::Sequential model(torch::nn::Linear(4, 4), torch::nn::ReLU(), QuantizeDequantize());
  const Tensor x = torch::randn({8, 4});
  EXPECT_TRUE(throws([&] { model->forward(x); }, {"there is no range"}));
  calibrate(*model, [&] { model->forward(x); });
  EXPECT_EQ(model->forward(x).sizes(), (std::vector<std::int64_t>{8, 4}));
  EXPECT_TRUE(throws([&] { calibrate(*model, [] {}); }, {"no finite value passed through 2"}));
}

TEST(QuantizeDequantizeModule, CopiesAreApart) {
  QuantizeDequantize quantizer(weights(4, {3, 1}));
  quantizer->calibrate(torch::randn({3, 50}));
  quantizer->freeze();
  const auto copy = std::dynamic_pointer_cast<QuantizeDequantizeImpl>(quantizer->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_TRUE(torch::equal(copy->max, quantizer->max));
  EXPECT_TRUE(copy->is_frozen());
  EXPECT_FALSE(copy->max.requires_grad());
  const Tensor x = torch::randn({3, 50});
  EXPECT_TRUE(torch::equal(copy->forward(x), quantizer(x)));
  copy->set_range(torch::tensor(-1.0f), torch::tensor(1.0f));
  EXPECT_FALSE(torch::equal(copy->max, quantizer->max));
}

TEST(QuantizeDequantizeModule, StaysInSinglePrecisionInAHalfPrecisionModel) {
  torch::nn::Sequential model(torch::nn::Linear(4, 4), QuantizeDequantize());
  calibrate(*model, [&] { model->forward(torch::randn({8, 4})); });
  const auto quantizer = std::dynamic_pointer_cast<QuantizeDequantizeImpl>(model[1]);
  const Tensor before = quantizer->max.detach().clone();
  model->to(torch::kBFloat16);
  EXPECT_TRUE(torch::equal(quantizer->max, before));
  EXPECT_EQ(model->forward(torch::randn({8, 4}, torch::kBFloat16)).scalar_type(), torch::kBFloat16);
  model->to(torch::kDouble);
  EXPECT_EQ(quantizer->max.scalar_type(), torch::kDouble);
}

TEST(QuantizeDequantizeModule, RefusesACheckpointThatDoesNotFit) {
  QuantizeDequantize saved(weights(4, {3, 1}));
  saved->calibrate(torch::randn({3, 50}));
  std::stringstream file;
  torch::save(saved, file);
  QuantizeDequantize other(Options().bitwidth(8));
  other->set_range(torch::tensor(0.0f), torch::tensor(1.0f));
  EXPECT_TRUE(throws([&] { torch::load(other, file); },
                     {"qmin is -8, here 0;", "qmax is 7, here 255;", "symmetric is 1, here 0;",
                      "the shape of min is [3, 1], here [];", "nothing was loaded"}));
  EXPECT_EQ(other->max.item<float>(), 1);
}

TEST(QuantizeDequantizeModule, NamesWhatIsWrong) {
  EXPECT_TRUE(throws([] { QuantizeDequantize(Options().bitwidth(0)); },
                     {"`bitwidth` must be between 1 and 32, got 0"}));
  EXPECT_TRUE(throws([] { QuantizeDequantize(Options().percentile(20)); },
                     {"`percentile` must be within 50 and 100, got 20"}));
  const Options blocks = Options().block_size(std::vector<std::int64_t>{4});
  EXPECT_TRUE(throws([&] { QuantizeDequantize{blocks}; },
                     {"`block_size` must have one entry for each dimension"}));
  const Tensor one = torch::tensor(1.0f);
  QuantizeDequantize quantizer;
  EXPECT_TRUE(
      throws([&] { quantizer->set_range(2 * one, one); }, {"`low` must not exceed `high`"}));
  EXPECT_TRUE(throws([&] { quantizer->set_range(one.log() / 0, one); }, {"must be finite"}));
  EXPECT_FALSE(quantizer->is_initialized());
  std::ostringstream text;
  text << *quantizer;
  EXPECT_EQ(text.str(), "aimet::nn::QuantizeDequantize(shape=[], qmin=0, qmax=255)");
}

}  // namespace
}  // namespace aimet::nn

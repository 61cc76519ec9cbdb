// Quantization-aware training without Python: on which arm of a spiral does a point lie?
//
//   cmake -S . -B build -DCMAKE_PREFIX_PATH="$(python -m aimet_torch --cmake-prefix-path)"
//   cmake --build build && build/qat
#include <torch/torch.h>

#include <aimet/nn/quantize_dequantize.h>

#include <iostream>

using aimet::nn::QuantizeDequantize;
using Options = aimet::nn::QuantizeDequantizeOptions;

constexpr int kBits = 3;

// One range for each row of the weight, one for the output.
struct LayerImpl : torch::nn::Module {
  LayerImpl(int inputs, int outputs, bool last)
      : linear(register_module("linear", torch::nn::Linear(inputs, outputs))),
        weight(register_module(
            "weight",
            QuantizeDequantize(Options().bitwidth(kBits).symmetric(true).shape({outputs, 1})))),
        output(register_module("output", QuantizeDequantize(Options().bitwidth(kBits)))),
        last(last) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor w = linear->weight;
    const torch::Tensor y = torch::linear(x, quantized ? weight(w) : w, linear->bias);
    const torch::Tensor z = last ? y : y.relu();
    return quantized ? output(z) : z;
  }

  torch::nn::Linear linear;
  QuantizeDequantize weight, output;
  bool last, quantized = false;
};
TORCH_MODULE(Layer);

int main() {
  torch::manual_seed(0);
  constexpr int kArms = 3, kPoints = 200;
  const torch::Tensor arm = torch::arange(kArms).repeat_interleave(kPoints);
  const torch::Tensor radius = torch::linspace(0.05, 1, kPoints).repeat({kArms});
  const torch::Tensor angle = 4 * radius + 2 * M_PI / kArms * arm + 0.2 * torch::randn({600});
  const torch::Tensor x = torch::stack({radius * angle.cos(), radius * angle.sin()}, 1);

  torch::nn::Sequential model;
  model->push_back(Layer(2, 32, false));
  model->push_back(Layer(32, 32, false));
  model->push_back(Layer(32, kArms, true));
  const auto report = [&](const char* when) {
    const torch::Tensor correct = model->forward(x).argmax(1) == arm;
    std::cout << when << ": " << 100 * correct.to(torch::kFloat).mean().item<float>() << " %\n";
  };
  const auto train = [&](double rate, int steps) {
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(rate).momentum(0.9));
    for (int step = 0; step < steps; ++step) {
      optimizer.zero_grad();
      torch::nn::functional::cross_entropy(model->forward(x), arm).backward();
      optimizer.step();
    }
  };

  train(0.2, 800);
  report("FP32");
  for (const auto& layer : model->children()) layer->as<LayerImpl>()->quantized = true;
  aimet::nn::calibrate(*model, [&] { model->forward(x); });  // weights pass through theirs too
  report("3 bits, calibrated");
  train(0.05, 400);
  report("3 bits, trained");
  torch::save(model, "qat.pt");
}

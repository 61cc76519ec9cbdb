// TorchScript models and entries of encodings files for the tests of the simulation.
#pragma once

#include "aimet/aimet.h"
#include "aimet/encodings/document.h"
#include "aimet/simulation/quant_sim.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/api/module.h>

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace aimet::simulation_test {

namespace jit = torch::jit;
using encodings::DataType;
using encodings::EncodingsDocument;
using encodings::TensorEncoding;

// Parameters by name and the source of `forward`.
inline jit::Module make_model(const std::vector<std::pair<std::string, at::Tensor>>& parameters,
                              const std::string& forward) {
  jit::Module module("model");
  for (const auto& [name, tensor] : parameters) {
    module.register_parameter(name, tensor, /*is_buffer=*/false);
  }
  module.define(forward);
  return module;
}

// A grid of 8 bits: signed and symmetric for an offset of 0, else unsigned.
inline TensorEncoding grid(std::string name, std::vector<double> scale,
                           std::vector<std::int64_t> offset = {}) {
  TensorEncoding entry;
  entry.name = std::move(name);
  entry.is_signed = entry.is_symmetric = offset.empty();
  if (scale.size() > 1) entry.shape = {static_cast<std::int64_t>(scale.size())};
  offset.resize(scale.size(), 0);
  entry.scale = std::move(scale);
  entry.offset = std::move(offset);
  return entry;
}

inline EncodingsDocument document(std::vector<TensorEncoding> parameters,
                                  std::vector<TensorEncoding> activations = {}) {
  EncodingsDocument result;
  result.version = "1.0.0";
  result.param_encodings = std::move(parameters);
  result.activation_encodings = std::move(activations);
  return result;
}

inline at::Tensor run(QuantSim& sim, const at::Tensor& x) {
  return sim.forward({x}).toTensor();
}

// What the entries' operators give, on the grids of `grid` above.
inline at::Tensor rounded(const at::Tensor& x, const at::Tensor& scale, std::int64_t offset = 0) {
  const bool is_signed = offset == 0;
  return quantize_dequantize(x, scale.to(at::kFloat), at::full(scale.sizes(), offset, at::kFloat),
                             is_signed ? -128 : 0, is_signed ? 127 : 255);
}

// Whether a simulation of `model` is refused with a message that has every one of `parts`.
inline testing::AssertionResult refuses(const jit::Module& model, const EncodingsDocument& entries,
                                        const std::vector<std::string>& parts) {
  std::string message = "nothing was thrown";
  try {
    QuantSim(model, entries);
  } catch (const c10::ValueError& error) {
    message = error.what_without_backtrace();
  }
  for (const std::string& part : parts) {
    if (message.find(part) == std::string::npos) {
      return testing::AssertionFailure() << '"' << part << "\" is not in: " << message;
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace aimet::simulation_test

// Quantization simulation of a TorchScript model without Python: fake-quantize operators at the
// tensors that an encodings file names.
//
//   torch::jit::Module model = torch::jit::load("model.torchscript.pth");
//   aimet::QuantSim sim(model, "model.encodings");
//   at::Tensor y = sim.forward({x}).toTensor();
//
// Names. Entries of `param_encodings` go by the dotted name of a parameter or buffer
// ("layer1.0.conv1.weight"), entries of `activation_encodings` by the name of a value in the
// inlined graph of `forward`, an input of the model among them: activation_names() lists those
// names. TorchScript appends numbers to names ("x.1"); they may be left out where that is
// unambiguous. Python's export_torchscript_with_encodings() (sim.export with
// export_to_torchscript=True) writes a model whose values carry names, and the file that goes with
// it: then the results are, bit for bit, those of the Python simulation.
//
// Not part of aimet/aimet.h: TorchScript's headers take seconds to compile.
#pragma once

#include "aimet/encodings/document.h"
#include "aimet/export.h"

#include <torch/csrc/jit/api/module.h>

#include <string>
#include <vector>

namespace aimet {

class AIMET_API QuantSim {
 public:
  // `model` stays as it is; tensors that are not quantized are shared with it. The simulation is in
  // evaluation mode. Parameters are quantized here, once; activations whenever the model runs.
  // Raises c10::ValueError with the name of every entry that fits nothing in the model, holds no
  // grid, or has scales of a shape that does not fit its tensor; encodings::EncodingsError where
  // the file cannot be read.
  QuantSim(const torch::jit::Module& model, const std::string& encodings_path);
  QuantSim(const torch::jit::Module& model, const encodings::EncodingsDocument& document);

  // Not for several threads at once while TorchScript still optimizes (its first calls).
  at::IValue forward(std::vector<at::IValue> inputs);

  // An ordinary TorchScript module: it can be saved, loaded where this library is, moved to a
  // device, frozen.
  const torch::jit::Module& module() const { return module_; }
  torch::jit::Module& module() { return module_; }

  // Names that entries can have, in the order in which the model computes.
  static std::vector<std::string> activation_names(const torch::jit::Module& model);
  static std::vector<std::string> parameter_names(const torch::jit::Module& model);

 private:
  torch::jit::Module module_;
};

}  // namespace aimet

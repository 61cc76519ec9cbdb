// Makes a quantization simulation of an FP32 network in C++, and runs it.
//
//   quant_sim model.torchscript.pth model.encodings inputs.pt outputs.pt [simulation.pt]
//
// The first two files are those of sim.export(..., export_to_torchscript=True); the outputs are, to
// the last bit, those of sim.model in Python. The simulation can be saved as TorchScript.
#include <torch/script.h>

#include <aimet/simulation/quant_sim.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int count, char** arguments) {
  if (count < 5) {
    std::cerr << "usage: quant_sim MODEL ENCODINGS INPUTS OUTPUTS [SIMULATION]\n";
    return 2;
  }
  try {
    const c10::InferenceMode inference;
    const torch::jit::Module model = torch::jit::load(arguments[1]);
    std::cout << aimet::QuantSim::activation_names(model).size() << " named activations\n";
    aimet::QuantSim sim(model, arguments[2]);

    std::ifstream file(arguments[3], std::ios::binary);
    const auto inputs = torch::pickle_load({std::istreambuf_iterator<char>(file), {}});
    const c10::IValue outputs = sim.forward(inputs.toTupleRef().elements().vec());
    const std::vector<char> bytes = torch::pickle_save(outputs);
    std::ofstream(arguments[4], std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
    if (count > 5) sim.module().save(arguments[5]);
  } catch (const c10::Error& error) {  // an entry that fits nothing in the model, for instance
    std::cerr << error.what_without_backtrace() << '\n';
    return 1;
  } catch (const std::exception& error) {  // a file that cannot be read
    std::cerr << error.what() << '\n';
    return 1;
  }
}

// `aimet::QuantSim` as a program without Python uses it: which names there are, where operators go,
// what stays as it was, what is refused. Results are compared with the operators' own, to the last
// bit.
#include "models.h"

#include "aimet/encodings/encodings.h"

#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <sstream>

namespace aimet::simulation_test {
namespace {

using Names = std::vector<std::string>;

constexpr const char* kNetwork = R"(
def forward(self, x):
    hidden = torch.linear(x, self.weight, self.bias)
    activated = torch.relu(hidden)
    return activated * 2.0
)";

jit::Module network() {
  at::manual_seed(1);
  return make_model({{"weight", at::randn({4, 3})}, {"bias", at::randn({4})}}, kNetwork);
}

TEST(QuantSim, ComputesWhatTheOperatorsCompute) {
  const jit::Module model = network();
  const at::Tensor weight = model.attr("weight").toTensor(), bias = model.attr("bias").toTensor();
  const at::Tensor scales = at::rand({4}) / 50 + 0.001;
  const std::vector<float> values(scales.data_ptr<float>(), scales.data_ptr<float>() + 4);
  QuantSim sim(model, document({grid("weight", {values.begin(), values.end()})},
                               {grid("x", {0.03125}, {-100}), grid("activated", {0.0625}, {-1})}));
  const at::Tensor x = at::randn({5, 3});
  const at::Tensor hidden = at::linear(rounded(x, at::scalar_tensor(0.03125), -100),
                                       rounded(weight, scales.reshape({4, 1})), bias);
  const at::Tensor expected = rounded(at::relu(hidden), at::scalar_tensor(0.0625), -1) * 2.0;
  EXPECT_TRUE(at::equal(run(sim, x), expected));
  EXPECT_FALSE(at::equal(run(sim, x), model.get_method("forward")({x}).toTensor()));
}

TEST(QuantSim, LeavesTheModelAsItWas) {
  jit::Module model = network();
  const at::Tensor weight = model.attr("weight").toTensor(), x = at::randn({5, 3});
  const at::Tensor kept = weight.clone(), before = model.forward({x}).toTensor();
  QuantSim sim(model, document({grid("weight", {0.1})}, {grid("hidden", {0.1})}));
  EXPECT_TRUE(at::equal(model.attr("weight").toTensor(), kept));
  EXPECT_TRUE(at::equal(model.forward({x}).toTensor(), before));
  // What is not quantized is not copied either.
  EXPECT_EQ(sim.module().attr("bias").toTensor().data_ptr(), model.attr("bias").toTensor().data_ptr());
  EXPECT_NE(sim.module().attr("weight").toTensor().data_ptr(), weight.data_ptr());
}

TEST(QuantSim, NamesComeInTheOrderOfTheGraph) {
  const Names activations = QuantSim::activation_names(network());
  EXPECT_EQ(activations.at(0), "x");
  EXPECT_EQ(activations.at(1), "hidden");
  EXPECT_EQ(activations.at(2), "activated");
  EXPECT_EQ(QuantSim::parameter_names(network()), (Names{"weight", "bias"}));
}

TEST(QuantSim, FindsParametersAndValuesOfSubmodules) {
  const jit::Module inner = network();
  jit::Module model("outer");
  model.register_module("block", inner);
  model.define("def forward(self, x):\n    return self.block.forward(x) + self.block.bias\n");
  EXPECT_EQ(QuantSim::parameter_names(model), (Names{"block.weight", "block.bias"}));
  QuantSim sim(model, document({grid("block.weight", {0.125})}, {grid("hidden", {0.25})}));
  const at::Tensor x = at::randn({2, 3}), bias = inner.attr("bias").toTensor();
  const at::Tensor weight = rounded(inner.attr("weight").toTensor(), at::scalar_tensor(0.125));
  const at::Tensor hidden = rounded(at::linear(x, weight, bias), at::scalar_tensor(0.25));
  EXPECT_TRUE(at::equal(run(sim, x), at::relu(hidden) * 2.0 + bias));
}

TEST(QuantSim, QuantizesInsideBranchesAndLoops) {
  const jit::Module model = make_model({}, R"(
def forward(self, x):
    if bool(x.sum() > 0):
        y = x.mul(3.0)
        z = y + 1.0
    else:
        z = x
    for i in range(2):
        w = z + 0.3
        z = w * 2.0
    return z
)");
  QuantSim sim(model, document({}, {grid("y", {0.5}), grid("w", {0.25})}));
  const auto loop = [](at::Tensor z) {
    for (int i = 0; i < 2; ++i) z = rounded(z + 0.3, at::scalar_tensor(0.25)) * 2.0;
    return z;
  };
  const at::Tensor x = at::rand({7}) + 0.1;
  EXPECT_TRUE(at::equal(run(sim, x), loop(rounded(x * 3.0, at::scalar_tensor(0.5)) + 1.0)));
  EXPECT_TRUE(at::equal(run(sim, -x), loop(-x)));
}

TEST(QuantSim, NumbersOfNamesMayBeLeftOutWhereOneValueIsMeant) {
  const jit::Module model = make_model({}, R"(
def forward(self, x):
    y = x * 2.0
    y = y + 0.3
    only = y * 1.0
    return only
)");
  const Names names = QuantSim::activation_names(model);
  EXPECT_EQ(std::count(names.begin(), names.end(), "y"), 1);  // two values, listed once
  EXPECT_TRUE(refuses(model, document({}, {grid("y", {0.5})}), {"`y` could be any of y."}));
  const at::Tensor x = at::randn({6}), expected = rounded(x * 2.0 + 0.3, at::scalar_tensor(0.5));
  QuantSim sim(model, document({}, {grid("only", {0.5})}));
  EXPECT_TRUE(at::equal(run(sim, x), expected));
}

TEST(QuantSim, RunsInEvaluationMode) {
  jit::Module model("dropping");
  model.register_attribute("training", c10::BoolType::get(), true);
  model.define("def forward(self, x):\n    return torch.dropout(x, 0.5, self.training)\n");
  model.train();
  QuantSim sim(model, document({}, {grid("x", {1.0})}));
  EXPECT_TRUE(at::equal(run(sim, at::ones({100})), at::ones({100})));
  EXPECT_TRUE(model.is_training());
}

TEST(QuantSim, CanBeSavedLoadedAndFrozen) {
  QuantSim sim(network(), document({grid("weight", {0.1})}, {grid("hidden", {0.05}, {-77})}));
  const at::Tensor x = at::randn({5, 3}), expected = run(sim, x);
  std::stringstream file;
  sim.module().save(file);
  jit::Module loaded = jit::load(file);
  EXPECT_TRUE(at::equal(loaded.forward({x}).toTensor(), expected));
  jit::Module frozen = jit::freeze_module(sim.module());
  EXPECT_TRUE(at::equal(frozen.forward({x}).toTensor(), expected));
}

TEST(QuantSim, ReadsAFile) {
  const EncodingsDocument entries = document({grid("weight", {0.1})}, {grid("hidden", {0.5}, {-9})});
  const std::string path = testing::TempDir() + "/quant_sim_test.encodings";
  encodings::write_file(path, entries, "1.0.0");
  QuantSim from_file(network(), path), from_document(network(), entries);
  const at::Tensor x = at::randn({5, 3});
  EXPECT_TRUE(at::equal(run(from_file, x), run(from_document, x)));
  EXPECT_THROW(QuantSim(network(), testing::TempDir() + "/missing.encodings"),
               encodings::EncodingsError);
}

TEST(QuantSim, ListsEveryEntryThatDoesNotFit) {
  TensorEncoding module_slot = grid("x", {0.1});
  module_slot.slot = encodings::ModuleSlot{};
  TensorEncoding uncalibrated = grid("activated", {});
  TensorEncoding shifted = grid("hidden", {0.1});
  shifted.zero_point_shift = 0.5;
  EXPECT_TRUE(refuses(
      network(),
      document({grid("wieght", {0.1})}, {module_slot, uncalibrated, shifted, grid("hid", {0.1})}),
      {"5 entries", "param_encodings `wieght` names no tensor of the model",
       "activation_encodings `x` names a module's input or output, not a tensor",
       "`activated` has no scale: the tensor was not calibrated",
       "`hidden` has a grid shifted by half a step", "`hid` names no tensor",
       "QuantSim::activation_names() lists the names"}));
}

TEST(QuantSim, NeedsAForward) {
  EXPECT_TRUE(refuses(jit::Module("empty"), document({}), {"`model` has no method `forward`"}));
}

}  // namespace
}  // namespace aimet::simulation_test

// Conversion between versions, comparison and the lint.

#include "samples.h"

#include <algorithm>
#include <string>
#include <vector>

namespace aimet::encodings {
namespace {

using testing::kFile061;
using testing::kFile100;
using testing::kFile200;
using testing::kFile210;

TensorFacts activation(std::vector<int64_t> shape) {
  TensorFacts facts;
  facts.shape = std::move(shape);
  facts.has_shape = true;
  return facts;
}

TensorFacts weight(std::vector<int64_t> shape, int64_t channel_axis, int64_t block_axis) {
  TensorFacts facts = activation(std::move(shape));
  facts.is_param = true;
  facts.channel_axis = channel_axis;
  facts.block_axis = block_axis;
  return facts;
}

// A network to which the samples belong.
ModelFacts network() {
  ModelFacts model;
  model["input"] = activation({1, 3, 8, 8});
  model["input"].reader = "Conv";
  model["gelu_out"] = activation({1, 32});
  model["conv1.weight"] = weight({2, 3, 3, 3}, 0, 1);
  model["conv1.weight"].reader = "Conv";
  model["conv1.bias"] = activation({2});
  model["conv1.bias"].is_param = true;
  model["conv1.bias"].product_of = {"input", "conv1.weight"};
  model["fc1.weight"] = weight({2, 32}, 0, 1);
  model["fc2.weight"] = weight({2, 20}, 0, 1);
  model["w_int2"] = weight({2, 32}, 0, 1);
  model["mx"] = weight({1, 64}, 0, 1);
  model["kv"] = activation({1, 32});
  return model;
}

template <typename Function>
void expect_refused(const Function& function, const std::string& location,
                    const std::string& reason) {
  try {
    function();
    ADD_FAILURE() << "converted, for all of " << location << ": " << reason;
  } catch (const UnsupportedError& error) {
    EXPECT_EQ(error.location(), location) << error.what();
    EXPECT_NE(error.reason().find(reason), std::string::npos) << error.what();
  }
}

TEST(Convert, GoesToVersion2AndBackWithTheModel) {
  ConvertOptions options;
  options.model = network();
  options.drops_unscaled = true;
  const EncodingsDocument old = parse(kFile100, "file");
  for (const char* version : {"2.0.0", "2.1.0"}) {
    const EncodingsDocument fresh =
        parse(serialize(convert(old, version, options), version), "fresh");
    EXPECT_EQ(fresh.version, version);
    ASSERT_EQ(fresh.encodings.size(), 4U);  // not gelu_out, of 16-bit floats
    EXPECT_EQ(fresh.encodings[1].channel_axis, 0);
    EXPECT_EQ(fresh.encodings[2].shape, (std::vector<int64_t>{2, 2}));
    EXPECT_EQ(fresh.encodings[2].block_axis, 1);
    EncodingsDocument again = parse(serialize(convert(fresh, "1.0.0", options), "1.0.0"), "again");
    again.producer = old.producer;
    again.quantizer_args = old.quantizer_args;
    again.activation_encodings.push_back(old.activation_encodings[1]);
    EXPECT_EQ(again, old);
  }
  EXPECT_EQ(sections_without_place(old, "2.0.0"), std::vector<std::string>{"quantizer_args"});
  EXPECT_TRUE(sections_without_place(old, "0.6.1").empty());
}

TEST(Convert, NamesTheEntryThatWouldLoseSomething) {
  const EncodingsDocument old = parse(kFile100, "file");
  expect_refused([&] { convert(old, "2.0.0"); }, "$.activation_encodings.gelu_out",
                 "no entries without a scale");
  ConvertOptions drop;
  drop.drops_unscaled = true;
  expect_refused([&] { convert(old, "2.0.0", drop); }, "$.param_encodings[\"conv1.weight\"]",
                 "needs the axis of the channels");
  expect_refused([&] { convert(old, "0.6.1"); }, "$.param_encodings[\"fc2.weight\"]", "LPBQ");
  EncodingsDocument blocks = old;
  blocks.param_encodings.pop_back();
  expect_refused([&] { convert(blocks, "0.6.1"); }, "$[\"fc1.weight\"]", "does not hold its");
  const EncodingsDocument fresh = parse(kFile200, "file");
  expect_refused([&] { convert(fresh, "1.0.0"); }, "$.encodings.input", "the model or the names");
  ConvertOptions partial;
  partial.model["input"] = activation({1});
  expect_refused([&] { convert(fresh, "1.0.0", partial); }, "$.encodings[\"conv1.weight\"]",
                 "the model has no tensor of this name");
  ConvertOptions names;
  names.param_names = {{"conv1.weight", "conv1.bias", "fc1.weight", "fc2.weight", "w_int2"}};
  expect_refused([&] { convert(fresh, "1.0.0", names); }, "$.activation_encodings.mx",
                 "float4e2m1");
  expect_refused([&] { convert(parse(kFile210, "file"), "2.0.0"); }, "$.encodings[\"fc3.weight\"]",
                 "2.1.0");
}

TEST(Convert, RefusesAnAxisThatTheOldVersionDoesNotImply) {
  EncodingsDocument document;
  document.version = "2.0.0";
  TensorEncoding encoding;
  encoding.name = "up.weight";
  encoding.is_signed = encoding.is_symmetric = true;
  encoding.scale = {0.5, 0.25};
  encoding.offset = {0, 0};
  encoding.shape = {2};
  encoding.channel_axis = 1;
  document.encodings = {encoding};
  ConvertOptions options;
  options.param_names = {{"up.weight"}};
  expect_refused([&] { convert(document, "1.0.0", options); }, "$.encodings[\"up.weight\"]",
                 "implies output channels, axis 0 for all that is known");
  options.model["up.weight"] = weight({4, 2, 3, 3}, 1, 0);  // a transposed convolution
  EXPECT_EQ(convert(document, "1.0.0", options).param_encodings.at(0).scale, encoding.scale);
  options.model["up.weight"] = weight({2, 2, 3, 3}, 0, 1);
  expect_refused([&] { convert(document, "1.0.0", options); }, "$.encodings[\"up.weight\"]",
                 "vary along axis 1");
}

TEST(Convert, RefusesBlocksThatDoNotCoverTheTensor) {
  ConvertOptions options;
  options.model = network();
  options.drops_unscaled = true;
  options.model["fc1.weight"].shape = {2, 64};
  expect_refused([&] { convert(parse(kFile100, "file"), "2.0.0", options); },
                 "$.param_encodings[\"fc1.weight\"]", "4 blocks of 16 do not cover");
}

TEST(Convert, KeepsEveryOldVersionWithinItsFamily) {
  const EncodingsDocument document = parse(kFile061, "file");
  EXPECT_EQ(convert(convert(document, "1.0.0"), "0.6.1"), document);
  const EncodingsDocument fresh = parse(kFile200, "file");
  EXPECT_EQ(convert(convert(fresh, "2.1.0"), "2.0.0"), fresh);
}

TEST(Diff, FindsWhatDiffersWhateverTheVersion) {
  const EncodingsDocument left = parse(kFile100, "file");
  EncodingsDocument right = left;
  EXPECT_TRUE(diff(left, right).empty());
  right.param_encodings[0].scale[1] = 0.025;
  right.activation_encodings[0].offset[0] = -80;
  right.param_encodings[1].block_size = 8;
  right.param_encodings.pop_back();
  right.activation_encodings[1].bitwidth = 32;
  const std::vector<Difference> found = diff(left, right);
  ASSERT_EQ(found.size(), 5U);
  const auto text = [](const Difference& d) {
    return d.name + "|" + d.field + "|" + d.left + "|" + d.right;
  };
  EXPECT_EQ(text(found[0]), "input|offset|-85|-80");
  EXPECT_EQ(text(found[1]), "gelu_out|type|floats of 16 bits|floats of 32 bits");
  EXPECT_EQ(text(found[2]), "conv1.weight|scale|0.02 at 1 (1 of 2 differ)|0.025");
  EXPECT_EQ(text(found[3]), "fc1.weight|block_size|16|8");
  EXPECT_EQ(text(found[4]), "fc2.weight|entry|integers of 4 bits|");
  EXPECT_EQ(diff(right, left).back().left, "");
  EXPECT_EQ(diff(left, right, 0.21).size(), 4U);  // the scale of conv1.weight is 20 % off
}

TEST(Diff, TakesOneGridForAnotherOfTheSameNumbers) {
  EncodingsDocument signed_grid = parse(kFile200, "file");
  EncodingsDocument unsigned_grid = signed_grid;
  TensorEncoding& input = unsigned_grid.encodings[0];
  input.is_signed = true;
  input.offset[0] += 128;
  EXPECT_TRUE(diff(signed_grid, unsigned_grid).empty());
}

std::vector<std::string> rules(const std::vector<Finding>& findings) {
  std::vector<std::string> texts;
  for (const Finding& finding : findings) {
    texts.push_back(finding.rule + " " + finding.name);
  }
  std::sort(texts.begin(), texts.end());
  return texts;
}

TEST(Check, FindsNothingWhereAllIsWell) {
  const ModelFacts model = network();
  EXPECT_EQ(rules(check(parse(kFile100, "file"), &model)), std::vector<std::string>{});
  EXPECT_EQ(rules(check(parse(kFile200, "file"), &model)), std::vector<std::string>{});
  EXPECT_EQ(rules(check(parse(testing::kFileTorch, "file"))), std::vector<std::string>{});
}

TEST(Check, FindsWhatIsMissingSurplusAndImpossible) {
  ModelFacts model = network();
  model.erase("kv");                       // surplus
  model["relu_out"] = activation({1, 8});  // missing
  model["relu_out"].reader = "Gemm";
  model["w_int2"].shape = {3, 32};         // impossible: channels
  model["fc1.weight"].shape = {2, 33};     // impossible: blocks
  model["fc2.weight"].shape = {2, 20, 1};  // impossible: rank
  model["mx"].is_float = false;            // impossible: type
  EncodingsDocument document = parse(kFile200, "file");
  document.encodings[2].scale[1] *= 1.001;  // bias
  const std::vector<Finding> findings = check(document, &model);
  EXPECT_EQ(rules(findings),
            (std::vector<std::string>{"bias conv1.bias", "impossible fc1.weight",
                                      "impossible fc2.weight", "impossible mx", "impossible w_int2",
                                      "missing relu_out", "surplus kv"}));
  const auto errors = std::count_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.severity == Severity::kError;
  });
  EXPECT_EQ(errors, 6);
}

TEST(Check, FindsRolesThatTheModelContradicts) {
  ModelFacts model = network();
  EncodingsDocument document = parse(kFile100, "file");
  std::swap(document.activation_encodings, document.param_encodings);
  const std::vector<std::string> found = rules(check(document, &model));
  EXPECT_EQ(std::count(found.begin(), found.end(), "role input"), 1);
  EXPECT_EQ(std::count(found.begin(), found.end(), "role conv1.weight"), 1);
  EXPECT_EQ(std::count(found.begin(), found.end(), "range conv1.weight"), 1);
  document.param_encodings.push_back(document.activation_encodings[0]);
  EXPECT_EQ(rules(check(document)).front(), "range conv1.weight");
}

TEST(Check, FindsDoubtfulNumbers) {
  EncodingsDocument document = parse(kFile100, "file");
  document.activation_encodings[0].scale[0] = 1e-40;
  document.activation_encodings[0].is_symmetric = true;
  document.param_encodings.push_back(document.activation_encodings[0]);
  EXPECT_EQ(rules(check(document)),
            (std::vector<std::string>{"range input", "range input", "range input", "range input",
                                      "role input"}));
}

TEST(Check, RefusesToCompareModulesWithTensors) {
  const ModelFacts model = network();
  EXPECT_THROW(check(parse(testing::kFileTorch, "file"), &model), UnsupportedError);
}

}  // namespace
}  // namespace aimet::encodings

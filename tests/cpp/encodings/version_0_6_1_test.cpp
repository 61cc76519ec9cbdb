// Files of the 0.x family.

#include "samples.h"

#include <string>
#include <vector>

namespace aimet::encodings {
namespace {

using testing::expect_error;
using testing::kFile061;
using testing::kFileTorch;
using testing::replaced;

TEST(Version061, ReadsEverySection) {
  const EncodingsDocument document = parse(kFile061, "file");
  EXPECT_EQ(document.version, "0.6.1");
  EXPECT_EQ(document.producer.at("version"), "2.42.0");
  ASSERT_EQ(document.activation_encodings.size(), 3U);
  const TensorEncoding& input = document.activation_encodings[0];
  EXPECT_EQ(input.name, "input");
  EXPECT_FALSE(input.is_signed);
  EXPECT_FALSE(input.is_symmetric);
  EXPECT_EQ(input.scale, std::vector<double>{0.011764705882352941});
  EXPECT_EQ(input.offset, std::vector<int64_t>{-85});
  EXPECT_TRUE(input.shape.empty());
  EXPECT_FALSE(document.activation_encodings[1].has_grid());
  EXPECT_EQ(document.activation_encodings[2].dtype, DataType::kFloat);
  EXPECT_EQ(document.activation_encodings[2].bitwidth, 16);
  ASSERT_EQ(document.param_encodings.size(), 1U);
  const TensorEncoding& weight = document.param_encodings[0];
  EXPECT_TRUE(weight.is_signed);
  EXPECT_TRUE(weight.is_symmetric);
  EXPECT_EQ(weight.offset, (std::vector<int64_t>{0, 0}));
  EXPECT_EQ(weight.shape, std::vector<int64_t>{2});
  EXPECT_EQ(document.excluded_layers, std::vector<std::string>{"fc3"});
  EXPECT_EQ(document.quantizer_args.at("activation_bitwidth"), QuantizerArg(int64_t{8}));
  EXPECT_EQ(document.quantizer_args.at("is_symmetric"), QuantizerArg(true));
}

TEST(Version061, RoundTrips) {
  const EncodingsDocument document = parse(kFile061, "file");
  EXPECT_EQ(parse(serialize(document, "0.6.1"), "again"), document);
}

TEST(Version061, WritesTheGridEndsAndTheSymmetryAsText) {
  const std::string text = serialize(parse(kFile061, "file"), "0.6.1");
  EXPECT_NE(text.find(R"("is_symmetric":"True","min":-1.28,"max":1.27,"scale":0.01,"offset":-128)"),
            std::string::npos)
      << text;
}

TEST(Version061, ReadsTheStrictSymmetricGrid) {
  // Range [-1.5, 1.5] on 255 levels: scale 1.5 / 127.
  const std::string text = R"({"param_encodings": {"w": [{"bitwidth": 8, "dtype": "int",
      "is_symmetric": "True", "min": -1.5, "max": 1.5, "scale": 0.011811023622047244,
      "offset": -127}]}})";
  const EncodingsDocument document = parse(text, "file");
  const TensorEncoding& weight = document.param_encodings.at(0);
  EXPECT_TRUE(weight.is_strict_symmetric);
  EXPECT_TRUE(weight.is_signed);
  EXPECT_EQ(weight.offset, std::vector<int64_t>{0});
  EXPECT_EQ(parse(serialize(document, ""), "again"), document);
  // The full grid has one level more, which values below the range would go to.
  EXPECT_THROW(serialize(document, "1.0.0"), UnsupportedError);
}

TEST(Version061, KeepsTheUnsignedSymmetricGrid) {
  const std::string text = R"({"param_encodings": {"w": [{"bitwidth": 8, "dtype": "int",
      "is_symmetric": "True", "min": 0, "max": 25.5, "scale": 0.1, "offset": 0}]}})";
  const TensorEncoding weight = parse(text, "file").param_encodings.at(0);
  EXPECT_FALSE(weight.is_signed);
  EXPECT_TRUE(weight.is_symmetric);
  EXPECT_EQ(weight.offset, std::vector<int64_t>{0});
}

TEST(Version061, ReadsOlderVersions) {
  const std::string entry =
      R"("is_symmetric": false, "min": -1.0, "max": 2.0, "scale": 0.011764705882352941,
         "offset": -85.0)";
  const auto file = [&](const std::string& version, const std::string& dtype) {
    return R"({"version": ")" + version + R"(", "activation_encodings": {"x": [{"bitwidth": 8, )" +
           dtype + entry + R"(}]}, "param_encodings": {}})";
  };
  EXPECT_EQ(parse(file("0.4.0", ""), "file").activation_encodings.at(0).offset.at(0), -85);
  EXPECT_EQ(parse(file("0.5.0", R"("dtype": "int", )"), "file").version, "0.5.0");
  expect_error(file("0.5.0", ""), "$.activation_encodings.x[0]", "has no key `dtype`");
}

TEST(Version061, ReadsTheLayoutByModules) {
  const EncodingsDocument document = parse(kFileTorch, "file");
  EXPECT_EQ(document.version, "");
  ASSERT_EQ(document.activation_encodings.size(), 3U);
  EXPECT_EQ(document.activation_encodings[0].name, "conv1");
  EXPECT_EQ(document.activation_encodings[0].slot, (ModuleSlot{ModuleSlot::Kind::kInput, 0}));
  EXPECT_EQ(document.activation_encodings[1].slot, (ModuleSlot{ModuleSlot::Kind::kInput, 1}));
  EXPECT_EQ(document.activation_encodings[2].slot, (ModuleSlot{ModuleSlot::Kind::kOutput, 0}));
  EXPECT_EQ(parse(serialize(document, ""), "again"), document);
}

// AIMET 2.x writes the layout by modules with the version of the file beside it.
TEST(Version061, ReadsTheLayoutByModulesUnderALaterVersion) {
  EncodingsDocument expected = parse(kFileTorch, "file");
  expected.version = "1.0.0";
  const std::string text = R"({"version": "1.0.0",)" + kFileTorch.substr(1);
  EXPECT_EQ(parse(text, "file"), expected);
}

TEST(Version061, KeepsSlotsOfTheModelItselfAndWithSeveralEntries) {
  EncodingsDocument document = parse(kFileTorch, "file");
  TensorEncoding& encoding = document.activation_encodings[2];
  encoding.name = "";
  encoding.scale = {0.25, 0.5};
  encoding.offset = {0, 0};
  encoding.shape = {2};
  EXPECT_EQ(parse(serialize(document, ""), "again"), document);
}

TEST(Version061, RejectsModuleSlotsThatAreNoIndex) {
  for (const char* key : {"-1", "01", "a", "", "99999999999999999999"}) {
    const std::string text = R"({"activation_encodings": {"m": {"input": {")" + std::string(key) +
                             R"(": {"bitwidth": 16, "dtype": "float"}}}}})";
    try {
      parse(text, "file");
      FAIL() << "accepted " << key;
    } catch (const FormatError& error) {
      EXPECT_NE(error.reason().find("must be its index"), std::string::npos) << error.what();
    }
  }
}

TEST(Version061, ReadsAParameterFile) {
  const std::string text = R"({"param_encodings": {"conv.weight": [{"bitwidth": 4, "dtype": "int",
      "is_symmetric": "True", "min": -0.8, "max": 0.7, "scale": 0.1, "offset": -8}]}})";
  const EncodingsDocument document = parse(text, "file");
  EXPECT_TRUE(document.activation_encodings.empty());
  EXPECT_EQ(document.param_encodings.at(0).bitwidth, 4);
  EXPECT_EQ(serialize(document, "").find("activation_encodings"), std::string::npos);
  EXPECT_EQ(parse(serialize(document, ""), "again"), document);
}

TEST(Version061, RejectsWhatItsEntriesMustNotBe) {
  struct Case {
    std::string before, after, location, reason;
  };
  const std::string input = "$.activation_encodings.input[0]";
  const std::string weight = "$.param_encodings[\"conv1.weight\"]";
  const std::vector<Case> cases = {
      {R"("offset": -85)", R"("offset": 1)", input + ".offset", "between -255 and 0, got 1"},
      {R"("offset": -85)", R"("offset": -256)", input + ".offset", "between -255 and 0"},
      {R"("offset": -85)", R"("offset": -85.5)", input + ".offset",
       "must be an integer, got -85.5"},
      {R"("offset": -85)", R"("offset": -1e300)", input + ".offset", "between -255 and 0"},
      {R"("offset": -85)", R"("offset": 18446744073709551615)", input + ".offset",
       "got 18446744073709551615"},
      {R"("offset": -85)", R"("offset": true)", input + ".offset", "must be an integer, got true"},
      {R"("offset": -85)", R"("offset": [-85])", input + ".offset", "got an array of 1"},
      {R"("scale": 0.011764705882352941)", R"("scale": 0)", input + ".scale", "must be positive"},
      {R"("scale": 0.011764705882352941)", R"("scale": -1)", input + ".scale", "got -1"},
      {R"("scale": 0.011764705882352941)", R"("scale": 1e-60)", input + ".scale", "float32"},
      {R"("scale": 0.011764705882352941)", R"("scale": 1e60)", input + ".scale", "float32"},
      {R"("scale": 0.011764705882352941)", R"("scale": "x")", input + ".scale", "must be a number"},
      {R"("scale": 0.011764705882352941)", R"("scale": null)", input + ".scale", "got null"},
      {R"("min": -1.0)", R"("min": -1.1)", input + ".min", "disagrees with `scale` and `offset`"},
      {R"("max": 2.0)", R"("max": 2.1)", input + ".max", "disagrees with `scale` and `offset`"},
      {R"("max": 2.0,)", "", input, "has no key `max`"},
      {R"("is_symmetric": "False")", R"("is_symmetric": "No")", input + ".is_symmetric",
       "\"True\" or \"False\", got \"No\""},
      {R"("is_symmetric": "False")", R"("is_symetric": "False")", input + ".is_symetric",
       "unknown key"},
      {R"("bitwidth": 16)", R"("bitwidth": 8)", "$.activation_encodings.gelu_out[0].bitwidth",
       "16 or 32, got 8"},
      {R"("dtype": "float")", R"("dtype": "half")", "$.activation_encodings.gelu_out[0].dtype",
       "got \"half\""},
      {R"([{"bitwidth": 16, "dtype": "float"}])", "[]", "$.activation_encodings.gelu_out",
       "at least one encoding"},
      {R"([{"bitwidth": 16, "dtype": "float"}])", "3", "$.activation_encodings.gelu_out",
       "must be an array, got 3"},
      {R"("min": -2.56)", R"("zero_point_shift": 0.5, "min": -2.56)", weight + "[1]",
       "differs from the first entry"},
      {R"("excluded_layers": ["fc3"])", R"("excluded_layers": [3])", "$.excluded_layers[0]",
       "must be a string, got 3"},
      {R"("version": "2.42.0")", R"("version": 2.42)", "$.producer.version", "must be a string"},
      {R"("quant_scheme": "post_training_tf_enhanced")", R"("quant_scheme": null)",
       "$.quantizer_args.quant_scheme", "must be a string, a number, true or false"},
      {R"("excluded_layers")", R"("excluded_layer")", "$.excluded_layer", "unknown key"},
  };
  for (const Case& item : cases) {
    SCOPED_TRACE(item.after);
    expect_error(replaced(kFile061, item.before, item.after), item.location, item.reason);
  }
}

TEST(Version061, RejectsWrongRoots) {
  expect_error("[]", "$", "must be an object, got an array of 0");
  expect_error("{}", "$", "neither `activation_encodings` nor `param_encodings`");
  expect_error(R"({"param_encodings": []})", "$.param_encodings", "must be an object");
  expect_error<UnsupportedError>(R"({"version": "3.0.0"})", "$.version",
                                 "version \"3.0.0\" is not supported; readable: 0.4.0, 0.5.0");
  expect_error<UnsupportedError>(R"({"version": ""})", "$.version", "is not supported");
  expect_error(R"({"version": 1})", "$.version", "must be a string");
}

}  // namespace
}  // namespace aimet::encodings

// Checks of documents that programs build, the JSON form for Python, and exactness of numbers.

#include "samples.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace aimet::encodings {
namespace {

using testing::kFile100;

TEST(NeutralJson, LosesNothing) {
  for (const std::string& file : testing::kAllFiles) {
    const EncodingsDocument document = parse(file, "file");
    EXPECT_EQ(from_neutral_json(to_neutral_json(document)), document);
  }
}

TEST(NeutralJson, KeepsShapesAndAxes) {
  const std::string text = R"({"activation_encodings": [], "param_encodings": [{"name": "w",
      "dtype": "int", "bitwidth": 4, "signed": true, "symmetric": true, "strict_symmetric": true,
      "scale": [1, 2], "offset": [0, 0], "shape": [1, 2, 1, 1], "block_size": null,
      "channel_axis": 1}]})";
  const EncodingsDocument document = from_neutral_json(text);
  EXPECT_EQ(document.param_encodings.at(0).shape, (std::vector<int64_t>{1, 2, 1, 1}));
  EXPECT_EQ(document.param_encodings.at(0).channel_axis, 1);
  EXPECT_TRUE(document.param_encodings.at(0).is_strict_symmetric);
  EXPECT_EQ(from_neutral_json(to_neutral_json(document)), document);
}

TEST(NeutralJson, RejectsMistakes) {
  const std::string head = R"({"activation_encodings": [{"name": "x", "dtype": "int", )";
  const auto expect_rejected = [&](const std::string& rest, const std::string& location,
                                   const std::string& reason) {
    try {
      from_neutral_json(head + rest + "}], \"param_encodings\": []}");
      FAIL() << "accepted " << rest;
    } catch (const FormatError& error) {
      EXPECT_EQ(error.source(), "encodings document");
      EXPECT_EQ(error.location(), "$.activation_encodings[0]" + location) << error.what();
      EXPECT_NE(error.reason().find(reason), std::string::npos) << error.what();
    }
  };
  expect_rejected(R"("bitwidth": 8, "scale": [1])", "", "has no key `signed`");
  expect_rejected(R"("bitwidth": 8, "sized": true)", ".sized", "unknown key");
  expect_rejected(R"("bitwidth": 33)", ".bitwidth", "between 2 and 32, got 33");
  const std::string flags = R"("bitwidth": 8, "signed": false, "symmetric": false, )";
  expect_rejected(flags + R"("scale": [1], "offset": [1], "shape": [])", "",
                  "`offset` must be between -255 and 0 for 8 unsigned bits, got 1");
  expect_rejected(flags + R"("scale": [1], "offset": [0], "shape": [2])", "",
                  "`shape` [2] does not hold 1 values");
  expect_rejected(flags + R"("scale": [1, 1], "offset": [0, 0], "shape": [-2, -1])", "",
                  "does not hold 2 values");
  expect_rejected(flags + R"("scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0], "shape": [2, 2])", "",
                  "varies along 2 axes, which needs a `block_size`");
  expect_rejected(flags + R"("scale": [1, 1], "offset": [0, 0], "shape": [1, 2],
                  "channel_axis": 0)",
                  "", "cannot be the axis along which");
  expect_rejected(flags + R"("scale": [1], "offset": [0], "shape": [], "channel_axis": 0)", "",
                  "cannot be the axis");
  expect_rejected(flags + R"("scale": [], "offset": [], "shape": [0])", ".scale",
                  "must not be empty");
  expect_rejected(flags + R"("scale": [1], "offset": [], "shape": [])", "",
                  "1 values of `scale` but 0 of `offset`");
}

TEST(Document, RejectsFieldsThatContradictEachOther) {
  const EncodingsDocument valid = parse(kFile100, "file");
  const auto expect_rejected = [&](const std::function<void(TensorEncoding&)>& change,
                                   size_t index) {
    EncodingsDocument document = valid;
    change(document.param_encodings[index]);
    EXPECT_THROW(validate(document, "program"), FormatError);
    EXPECT_THROW(serialize(document, "1.0.0"), FormatError);
    EXPECT_THROW(to_neutral_json(document), FormatError);
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_NO_THROW(validate(valid, "program"));
  expect_rejected([](TensorEncoding& e) { e.scale[0] = kNan; }, 0);
  expect_rejected([](TensorEncoding& e) { e.scale[0] = std::numeric_limits<double>::infinity(); },
                  0);
  expect_rejected([](TensorEncoding& e) { e.offset[0] = std::numeric_limits<int64_t>::min(); }, 0);
  expect_rejected([](TensorEncoding& e) { e.is_strict_symmetric = true, e.is_signed = false; }, 0);
  expect_rejected([](TensorEncoding& e) { e.per_block_int_scale = {1}; }, 0);
  expect_rejected([](TensorEncoding& e) { e.zero_point_shift = 0.25; }, 0);
  expect_rejected([](TensorEncoding& e) { e.dtype = DataType::kFloat, e.bitwidth = 16; }, 0);
  expect_rejected([](TensorEncoding& e) { e.bitwidth = 64; }, 0);
  expect_rejected([](TensorEncoding& e) { e.block_size = 0; }, 1);
  expect_rejected([](TensorEncoding& e) { e.block_size.reset(); }, 2);
  expect_rejected([](TensorEncoding& e) { e.decompressed_bitwidth = 40; }, 2);
  EncodingsDocument args = valid;
  args.quantizer_args["percentile"] = kNan;
  EXPECT_THROW(serialize(args, "1.0.0"), FormatError);
  EncodingsDocument bytes = valid;
  bytes.param_encodings[0].name = "\xff";
  EXPECT_THROW(serialize(bytes, "1.0.0"), FormatError);
}

// Every positive float32 reads back to itself, subnormal ones included.
TEST(Document, KeepsFloat32ScalesExactly) {
  std::mt19937 generator(2026);
  std::uniform_int_distribution<uint32_t> bits(1, 0x7f7fffffU);
  for (const char* version : {"0.6.1", "1.0.0", "2.0.0", "2.1.0"}) {
    EncodingsDocument document;
    TensorEncoding encoding;
    encoding.name = "w";
    encoding.is_signed = encoding.is_symmetric = true;
    for (int index = 0; index < 2000; ++index) {
      encoding.scale.push_back(static_cast<double>(std::bit_cast<float>(bits(generator))));
    }
    encoding.scale.push_back(static_cast<double>(std::numeric_limits<float>::denorm_min()));
    encoding.scale.push_back(static_cast<double>(std::numeric_limits<float>::max()));
    encoding.offset.assign(encoding.scale.size(), 0);
    encoding.shape = {static_cast<int64_t>(encoding.scale.size())};
    encoding.channel_axis = 0;
    document.param_encodings = {encoding};
    const EncodingsDocument again = parse(serialize(document, version), "again");
    const auto& section = again.encodings.empty() ? again.param_encodings : again.encodings;
    EXPECT_EQ(section.at(0).scale, encoding.scale) << version;
  }
}

TEST(Document, ListsItsVersions) {
  EXPECT_EQ(readable_versions(),
            (std::vector<std::string>{"0.4.0", "0.5.0", "0.6.1", "1.0.0", "2.0.0", "2.1.0"}));
  EXPECT_EQ(writable_versions(), (std::vector<std::string>{"0.6.1", "1.0.0", "2.0.0", "2.1.0"}));
}

}  // namespace
}  // namespace aimet::encodings

// Files of version 1.0.0.

#include "samples.h"

#include <string>
#include <vector>

namespace aimet::encodings {
namespace {

using testing::expect_error;
using testing::kFile061;
using testing::kFile100;
using testing::kFileTorch;
using testing::replaced;

TEST(Version100, ReadsEveryGranularity) {
  const EncodingsDocument document = parse(kFile100, "file");
  ASSERT_EQ(document.activation_encodings.size(), 2U);
  EXPECT_EQ(document.activation_encodings[0].offset, std::vector<int64_t>{-85});
  EXPECT_EQ(document.activation_encodings[1].dtype, DataType::kFloat);
  ASSERT_EQ(document.param_encodings.size(), 3U);
  const TensorEncoding& channel = document.param_encodings[0];
  EXPECT_EQ(channel.shape, std::vector<int64_t>{2});
  EXPECT_EQ(channel.offset, (std::vector<int64_t>{0, 0}));
  EXPECT_TRUE(channel.is_signed);
  const TensorEncoding& block = document.param_encodings[1];
  EXPECT_EQ(block.block_size, 16);
  EXPECT_EQ(block.shape, std::vector<int64_t>{4});
  const TensorEncoding& lpbq = document.param_encodings[2];
  EXPECT_EQ(lpbq.bitwidth, 4);
  EXPECT_EQ(lpbq.decompressed_bitwidth, 8);
  EXPECT_EQ(lpbq.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(lpbq.scale, (std::vector<double>{0.001, 0.002}));
  EXPECT_EQ(lpbq.per_block_int_scale, (std::vector<int64_t>{3, 16, 9, 12}));
}

TEST(Version100, RoundTrips) {
  const EncodingsDocument document = parse(kFile100, "file");
  const std::string text = serialize(document, "1.0.0");
  EXPECT_EQ(parse(text, "again"), document);
  EXPECT_EQ(serialize(parse(text, "again"), "1.0.0"), text);
}

TEST(Version100, ConvertsFromAndTo061) {
  EncodingsDocument document = parse(kFile061, "file");
  EncodingsDocument converted = parse(serialize(document, "1.0.0"), "converted");
  EXPECT_EQ(converted.version, "1.0.0");
  converted.version = document.version;
  EXPECT_EQ(converted, document);
}

TEST(Version100, WritesSignedAsymmetricEncodingsOnTheUnsignedGrid) {
  EncodingsDocument document;
  TensorEncoding encoding;
  encoding.name = "x";
  encoding.is_signed = true;
  encoding.scale = {0.5};
  encoding.offset = {43};
  document.activation_encodings = {encoding};
  const TensorEncoding read = parse(serialize(document, "1.0.0"), "again").activation_encodings[0];
  EXPECT_FALSE(read.is_signed);
  EXPECT_EQ(read.offset, std::vector<int64_t>{43 - 128});
}

TEST(Version100, TellsOneChannelFromPerTensor) {
  EncodingsDocument document = parse(kFile100, "file");
  TensorEncoding& channel = document.param_encodings[0];
  channel.scale = {0.25};
  channel.offset = {0};
  channel.shape = {1, 1, 1, 1};
  channel.channel_axis = 0;
  EXPECT_NE(serialize(document, "1.0.0").find(R"("conv1.weight","enc_type":"PER_CHANNEL")"),
            std::string::npos);
  channel.shape = {};
  channel.channel_axis.reset();
  EXPECT_NE(serialize(document, "1.0.0").find(R"("conv1.weight","enc_type":"PER_TENSOR")"),
            std::string::npos);
}

TEST(Version100, KeepsTheZeroPointShift) {
  const std::string text = replaced(kFile100, R"("offset": [-128, -128]},)",
                                    R"("offset": [-128, -128], "zero_point_shift": [0.5, 0.5]},)");
  const EncodingsDocument document = parse(text, "file");
  EXPECT_EQ(document.param_encodings[0].zero_point_shift, 0.5);
  EXPECT_EQ(parse(serialize(document, "1.0.0"), "again"), document);
  EXPECT_EQ(parse(serialize(document, "1.0.0"), "again").param_encodings[0].zero_point_shift, 0.5);
}

TEST(Version100, RejectsWhatItsEntriesMustNotBe) {
  struct Case {
    std::string before, after, location, reason;
  };
  const std::string lpbq = "$.param_encodings[2]";
  const std::vector<Case> cases = {
      {R"("offset": [-85])", R"("offset": [-85, -85])", "$.activation_encodings[0].offset",
       "2 values, but 1 of `scale`"},
      {R"("offset": [-85])", R"("offset": [-85.0])", "$.activation_encodings[0].offset[0]",
       "must be an integer"},
      {R"("scale": [0.011764705882352941], "offset": [-85])",
       R"("scale": [1, 2], "offset": [-85, -85])", "$.activation_encodings[0].scale",
       "PER_TENSOR has one value, got 2"},
      {R"("scale": [0.01, 0.02], "offset": [-128, -128])", R"("scale": [], "offset": [])",
       "$.param_encodings[0].scale", "must not be empty"},
      {R"("scale": [0.01, 0.02],)", R"("scale": [0.01, 0.0],)", "$.param_encodings[0].scale[1]",
       "must be positive"},
      {R"("scale": [0.01, 0.02],)", R"("scale": 0.01,)", "$.param_encodings[0].scale",
       "must be an array"},
      {R"("is_sym": false)", R"("is_sym": "False")", "$.activation_encodings[0].is_sym",
       "must be true or false"},
      {R"("bw": 16)", R"("bw": 8)", "$.activation_encodings[1].bw", "16 or 32, got 8"},
      {R"("bw": 16)", R"("bw": 16, "scale": [1.0])", "$.activation_encodings[1]",
       "a FLOAT entry has"},
      {R"("block_size": 16, "scale": [0.01)", R"("block_size": 0, "scale": [0.01)",
       "$.param_encodings[1].block_size", "between 1 and"},
      {R"("PER_BLOCK")", R"("PER_CHANNEL")", "$.param_encodings[1].block_size", "unknown key"},
      {R"("PER_BLOCK")", R"("PER_ROW")", "$.param_encodings[1].enc_type", "got \"PER_ROW\""},
      {R"("name": "gelu_out")", R"("name": "input")", "$.activation_encodings[1]",
       "a second encoding of `input`"},
      {R"("name": "gelu_out")", R"("name": "")", "$.activation_encodings[1]",
       "`name` must not be empty"},
      {R"("compressed_bw": 4)", R"("compressed_bw": 8)", lpbq, "must be above `bitwidth` (8)"},
      {R"("compressed_bw": 4,)", "", lpbq, "has no key `compressed_bw`"},
      {R"([3, 16, 9, 12])", R"([3, 17, 9, 12])", lpbq, "between 1 and 16, got 17"},
      {R"([3, 16, 9, 12])", R"([3, 16, 9])", lpbq, "do not divide into 2 channels"},
      {R"([3, 16, 9, 12])", R"([])", lpbq, "do not divide into 2 channels"},
      {R"([3, 16, 9, 12])", R"([0, 16, 9, 12])", lpbq + ".per_block_int_scale[0]", "got 0"},
      {R"("offset": [-128, -128],)", R"("offset": [-128, -127],)", lpbq + ".offset",
       "must be -128 for LPBQ with bw 8, got -127"},
      {R"("activation_encodings": [)", R"("activation_encoding": [)", "$.activation_encoding",
       "unknown key"},
  };
  for (const Case& item : cases) {
    SCOPED_TRACE(item.after);
    expect_error(replaced(kFile100, item.before, item.after), item.location, item.reason);
  }
  expect_error<UnsupportedError>(replaced(kFile100, R"("LPBQ")", R"("VECTOR")"), lpbq + ".enc_type",
                                 "vector quantization");
  expect_error(R"({"version": "1.0.0", "activation_encodings": []})", "$",
               "has no key `param_encodings`");
}

TEST(Version100, RefusesToWriteWhatAVersionCannotExpress) {
  const EncodingsDocument lpbq = parse(kFile100, "file");
  try {
    serialize(lpbq, "0.6.1");
    FAIL();
  } catch (const UnsupportedError& error) {
    EXPECT_EQ(error.location(), "$.param_encodings[\"fc2.weight\"]");
    EXPECT_NE(error.reason().find("write version 1.0.0"), std::string::npos);
  }
  EXPECT_THROW(serialize(parse(kFileTorch, "file"), "1.0.0"), UnsupportedError);
  for (const char* version : {"0.4.0", "0.5.0", "3.0.0", "latest"}) {
    EXPECT_THROW(serialize(lpbq, version), UnsupportedError) << version;
  }
  EncodingsDocument strict = lpbq;
  strict.param_encodings[0].is_strict_symmetric = true;
  EXPECT_THROW(serialize(strict, "1.0.0"), UnsupportedError);
  EncodingsDocument mixed = parse(kFileTorch, "file");
  mixed.activation_encodings.push_back(lpbq.activation_encodings[0]);
  EXPECT_THROW(serialize(mixed, "0.6.1"), UnsupportedError);
  EncodingsDocument wide;
  TensorEncoding encoding;
  encoding.name = "x";
  encoding.bitwidth = 32;
  encoding.scale = {1.0};
  encoding.offset = {-4000000000};
  wide.activation_encodings = {encoding};
  EXPECT_THROW(serialize(wide, "1.0.0"), UnsupportedError);
  EXPECT_EQ(parse(serialize(wide, "0.6.1"), "again").activation_encodings,
            wide.activation_encodings);
}

}  // namespace
}  // namespace aimet::encodings

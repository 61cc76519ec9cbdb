// Files of versions 2.0.0 and 2.1.0.

#include "samples.h"

#include <string>
#include <vector>

namespace aimet::encodings {
namespace {

using testing::expect_error;
using testing::kFile200;
using testing::kFile210;
using testing::replaced;

const TensorEncoding& entry(const EncodingsDocument& document, const std::string& name) {
  for (const TensorEncoding& encoding : document.encodings) {
    if (encoding.name == name) {
      return encoding;
    }
  }
  ADD_FAILURE() << "no entry " << name;
  return document.encodings.front();
}

TEST(Version2, ReadsEveryKindOfEntry) {
  const EncodingsDocument document = parse(kFile200, "file");
  ASSERT_EQ(document.encodings.size(), 8U);
  EXPECT_TRUE(document.activation_encodings.empty());
  const TensorEncoding& input = entry(document, "input");
  EXPECT_FALSE(input.is_signed);
  EXPECT_EQ(input.offset, std::vector<int64_t>{-85});
  EXPECT_TRUE(input.shape.empty());
  const TensorEncoding& channels = entry(document, "conv1.weight");
  EXPECT_TRUE(channels.is_signed && channels.is_symmetric);
  EXPECT_EQ(channels.channel_axis, 0);
  EXPECT_EQ(channels.shape, std::vector<int64_t>{2});
  EXPECT_EQ(entry(document, "conv1.bias").bitwidth, 32);
  const TensorEncoding& blocks = entry(document, "fc1.weight");
  EXPECT_EQ(blocks.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(blocks.block_axis, 1);
  EXPECT_EQ(blocks.channel_axis, 0);
  EXPECT_EQ(blocks.block_size, 16);
  EXPECT_EQ(blocks.offset, (std::vector<int64_t>{0, -1, 0, 8}));
  EXPECT_FALSE(blocks.is_symmetric);
  const TensorEncoding& lpbq = entry(document, "fc2.weight");
  EXPECT_EQ(lpbq.scale, (std::vector<double>{0.001, 0.002}));
  EXPECT_EQ(lpbq.per_block_int_scale, (std::vector<int64_t>{3, 16, 9, 12}));
  EXPECT_EQ(lpbq.decompressed_bitwidth, 8);
  EXPECT_EQ(entry(document, "w_int2").zero_point_shift, 0.5);
  EXPECT_EQ(entry(document, "w_int2").offset, (std::vector<int64_t>{0, 0}));
  const TensorEncoding& mx = entry(document, "mx");
  EXPECT_EQ(mx.float_format, "float4e2m1");
  EXPECT_EQ(mx.bitwidth, 4);
  EXPECT_EQ(mx.block_axis, 1);
  EXPECT_EQ(entry(document, "kv").dtype, DataType::kFloat);
  EXPECT_TRUE(entry(document, "kv").offset.empty());
}

TEST(Version2, ReadsTablesOfScales) {
  const EncodingsDocument document = parse(kFile210, "file");
  const TensorEncoding& lpbq = entry(document, "fc2.weight");
  EXPECT_EQ(lpbq, entry(parse(kFile200, "file"), "fc2.weight"));
  const TensorEncoding& nvfp4 = entry(document, "fc3.weight");
  EXPECT_EQ(nvfp4.per_block_float_scale, (std::vector<double>{0.5, 1.0, 2.0, 1.5}));
  EXPECT_EQ(nvfp4.block_scale_format, "float8e4m3fn");
  EXPECT_EQ(nvfp4.scale, std::vector<double>{0.0009});
  EXPECT_EQ(nvfp4.shape, (std::vector<int64_t>{2, 2}));
}

TEST(Version2, RoundTrips) {
  for (const auto& [file, version] : {std::pair(kFile200, "2.0.0"), std::pair(kFile210, "2.1.0")}) {
    const EncodingsDocument document = parse(file, "file");
    const std::string text = serialize(document, version);
    EXPECT_EQ(parse(text, "again"), document);
    EXPECT_EQ(serialize(parse(text, "again"), version), text);
  }
  const std::string later = serialize(parse(kFile200, "file"), "2.1.0");
  EXPECT_NE(later.find(R"("x":[[3,16],[9,12]],"x_scale":[0.001,0.002],"axis":0})"),
            std::string::npos)
      << later;
  EXPECT_TRUE(diff(parse(later, "later"), parse(kFile200, "file")).empty());
}

TEST(Version2, WritesTheFieldsOfTheFormat) {
  const std::string text = serialize(parse(kFile200, "file"), "2.0.0");
  for (
      const char* line :
      {R"({"name":"input","output_dtype":"uint8","y_scale":0.011764705882352941,"y_zero_point":85})",
       R"({"name":"conv1.weight","output_dtype":"int8","y_scale":[0.01,0.02],"axis":0})",
       R"("y_scale":[[0.01,0.02],[0.03,0.04]],"y_zero_point":[[0,1],[0,-8]],"axis":1,"block_size":16})",
       R"("per_block_int_scale":[[3,16],[9,12]],"per_channel_float_scale":[[0.001],[0.002]],"axis":1)",
       R"("y_zero_point":[-0.5,-0.5])",
       R"({"name":"kv","output_dtype":"float8e4m3fn","y_scale":0.0125})"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

TEST(Version2, TakesOneZeroPointForAllChannels) {
  const std::string text = replaced(kFile200, R"("y_scale": [0.01, 0.02], "axis": 0})",
                                    R"("y_scale": [0.01, 0.02], "axis": 0, "y_zero_point": 3})");
  EXPECT_EQ(entry(parse(text, "file"), "conv1.weight").offset, (std::vector<int64_t>{-3, -3}));
}

TEST(Version2, RejectsWhatItsEntriesMustNotBe) {
  struct Case {
    std::string before, after, location, reason;
  };
  const std::vector<Case> cases = {
      {R"("uint8")", R"("uint32")", "$.encodings[0].output_dtype", "got \"uint32\""},
      {R"("y_zero_point": 85)", R"("y_zero_point": 256)", "$.encodings[0]",
       "`offset` must be between -255 and 0"},
      {R"("y_zero_point": 85)", R"("y_zero_point": 0.25)", "$.encodings[0].y_zero_point",
       "shifted by -0.5, got 0.25"},
      {R"("y_zero_point": 85)", R"("y_zero_point": 1e300)", "$.encodings[0].y_zero_point",
       "1e+300"},
      {R"("y_zero_point": 85)", R"("y_zero_point": [1, 2])", "$.encodings[0].y_zero_point",
       "must be one number"},
      {R"("y_scale": [0.01, 0.02], "axis": 0})", R"("y_scale": [0.01, 0.02]})", "$.encodings[1]",
       "needs `axis`"},
      {R"("y_scale": 0.0125)", R"("y_scale": 0.0125, "axis": 0)", "$.encodings[7].y_scale",
       "must be a list"},
      {R"("y_scale": 0.0125)", R"("y_scale": 0)", "$.encodings[7].y_scale", "must be positive"},
      {R"("y_scale": 0.0125)", R"("y_scale": {"x": [1], "x_scale": 1})", "$.encodings[7].y_scale",
       "tables begin with version 2.1.0"},
      {R"([[0.01, 0.02], [0.03, 0.04]])", R"([[0.01, 0.02], [0.03]])", "$.encodings[3].y_scale[1]",
       "has 1 elements, where others have 2"},
      {R"([[0.01, 0.02], [0.03, 0.04]])", R"([[0.01, 0.02], 0.03])", "$.encodings[3].y_scale[1]",
       "nested 1 deep"},
      {R"([[0.01, 0.02], [0.03, 0.04]])", R"([[0.01, 0.02], [0.03, [0.04]]])",
       "$.encodings[3].y_scale[1][1]", "nested deeper"},
      {R"([[0, 1], [0, -8]], "axis": 1, "block_size": 16)", R"([[0, 1], [0, -8]], "axis": 1)",
       "$.encodings[3].y_scale", "need `block_size`"},
      {R"([[0, 1], [0, -8]], "axis": 1)", R"([[0, 1], [0, -8]], "axis": 2)", "$.encodings[3].axis",
       "is no axis"},
      {R"([[3, 16], [9, 12]])", R"([[3, 16], [9, 0]])", "$.encodings[4].per_block_int_scale[1][1]",
       "between 1 and 65535, got 0"},
      {R"([[0.001], [0.002]])", R"([[0.001], [0.002], [0.003]])",
       "$.encodings[4].per_channel_float_scale", "must vary along one axis"},
      {R"("per_channel_float_scale": [[0.001], [0.002]])", R"("y_scale": 1)",
       "$.encodings[4].y_scale", "give either"},
      {R"("y_zero_point": [-0.5, -0.5])", R"("y_zero_point": [-0.5, 0])",
       "$.encodings[5].y_zero_point", "all of them shifted"},
      {R"("y_scale": 0.0125)", R"("y_scale": 0.0125, "y_zero_point": 1)",
       "$.encodings[7].y_zero_point", "must be 0 for a floating-point type"},
      {R"("name": "kv")", R"("name": "mx")", "$.encodings[7]", "a second encoding of `mx`"},
      {R"("name": "kv")", R"("nam": "kv")", "$.encodings[7].nam", "unknown key"},
  };
  for (const Case& item : cases) {
    SCOPED_TRACE(item.after);
    expect_error(replaced(kFile200, item.before, item.after), item.location, item.reason);
  }
  expect_error(replaced(kFile210, "[[0.5, 1.0]", "[[0.51, 1.0]"), "$.encodings[2]",
               "no negative number of float8e4m3fn, got 0.51");
  expect_error(replaced(kFile210, R"("x_scale": [0.001, 0.002], "axis": 0)",
                        R"("x_scale": [0.001, 0.002], "axis": 1)"),
               "$.encodings[1].y_scale", "does not hold 2 channels");
  expect_error(replaced(kFile210, R"("x_scale": 0.0009,)", R"("x_scale": [1, 1],)"),
               "$.encodings[2].y_scale", "needs `axis`");
  expect_error<UnsupportedError>(
      replaced(kFile210, R"("x_scale": 0.0009,)", R"("x_scale": 0.0009, "block_size": 2,)"),
      "$.encodings[2].y_scale.block_size", "three levels");
  expect_error(R"({"version": "2.0.0", "param_encodings": []})", "$.param_encodings",
               "unknown key");
}

TEST(Version2, RefusesToWriteWhatAVersionCannotExpress) {
  const auto expect_refused = [](const EncodingsDocument& document, const char* version,
                                 const std::string& name, const std::string& reason) {
    try {
      serialize(document, version);
      ADD_FAILURE() << "wrote " << version;
    } catch (const UnsupportedError& error) {
      EXPECT_NE(error.location().find(name), std::string::npos) << error.what();
      EXPECT_NE(error.reason().find(reason), std::string::npos) << error.what();
    }
  };
  expect_refused(parse(testing::kFile061, "file"), "2.0.0", "inner", "without a scale");
  expect_refused(parse(testing::kFileTorch, "file"), "2.0.0", "conv1", "names tensors");
  expect_refused(parse(kFile200, "file"), "1.0.0", "input", "lists parameters apart");
  expect_refused(parse(kFile210, "file"), "2.0.0", "fc3.weight", "write version 2.1.0");
  EncodingsDocument document = parse(testing::kFile100, "file");
  document.activation_encodings.pop_back();
  expect_refused(document, "2.0.0", "conv1.weight", "needs the axis of the channels");
  document.param_encodings[0].channel_axis = 0;
  expect_refused(document, "2.0.0", "fc1.weight", "needs the shape of the blocks");
  document.activation_encodings[0].bitwidth = 9;
  expect_refused(document, "2.0.0", "input", "got 9 bits without");
  EncodingsDocument floats = parse(kFile200, "file");
  floats.param_encodings = {floats.encodings.back()};
  floats.encodings.clear();
  expect_refused(floats, "1.0.0", "kv", "write version 2.0.0");
  floats.encodings = floats.param_encodings;
  expect_refused(floats, "2.0.0", "kv", "this name in it already");
}

}  // namespace
}  // namespace aimet::encodings

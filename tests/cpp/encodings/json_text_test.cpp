// What the parser rejects before any version is looked at.

#include "samples.h"

#include <limits>
#include <string>

namespace aimet::encodings {
namespace {

using testing::expect_error;
using testing::kFile100;
using testing::replaced;

TEST(JsonText, RejectsTextThatIsNotJson) {
  expect_error("", "line 1, column 1", "not valid JSON");
  expect_error("{\"version\":\n  nul}", "line 2, column 6", "not valid JSON");
  expect_error("{} {}", "line 1, column 4", "not valid JSON");
  expect_error("{\"a\": 1,}", "line 1, column 9", "not valid JSON");
  expect_error("{\"a\": NaN}", "line 1, column 7", "not valid JSON");
  expect_error("{\"a\": -Infinity}", "line 1, column 8", "not valid JSON");
}

TEST(JsonText, RejectsEveryTruncation) {
  for (size_t size = 0; size < kFile100.size(); ++size) {
    EXPECT_THROW(parse(kFile100.substr(0, size), "cut"), FormatError) << size;
  }
  EXPECT_NO_THROW(parse(kFile100, "whole"));
}

TEST(JsonText, RejectsNumbersThatNoDoubleHolds) {
  expect_error(replaced(kFile100, "0.011764705882352941", "1e999"), "line 5, column 19",
               "number overflow");
}

TEST(JsonText, RejectsTextThatIsNotUtf8) {
  expect_error(replaced(kFile100, "gelu_out", "gelu\xff"), "line 6, column 18",
               "UTF-8 byte; last read: '\"gelu<ff>'");
  expect_error(replaced(kFile100, "gelu_out", "\xc0\xafx"), "line 6, column 14", "UTF-8");
  expect_error(replaced(kFile100, "gelu_out", "\\ud800"), "line 6, column 20", "surrogate");
}

TEST(JsonText, RejectsDuplicateKeysWithTheirPath) {
  expect_error(R"({"version": "1.0.0", "version": "1.0.0"})", "$.version", "duplicate key");
  expect_error(replaced(kFile100, R"("name": "gelu_out")", R"("bw": 8, "name": "gelu_out")"),
               "$.activation_encodings[1].bw", "duplicate key");
  expect_error(R"({"param_encodings": {"a b": [], "a b": []}})", "$.param_encodings[\"a b\"]",
               "duplicate key");
}

TEST(JsonText, FindsDuplicateKeysInLargeObjects) {
  std::string text = R"({"param_encodings": {)";
  for (int index = 0; index < 1000; ++index) {
    text += "\"w" + std::to_string(index) + R"(": [{"bitwidth": 8}], )";
  }
  EXPECT_EQ(parse(text + R"("w": [{"bitwidth": 8}]}})", "large").param_encodings.size(), 1001U);
  expect_error(text + R"("w7": [{"bitwidth": 8}]}})", "$.param_encodings.w7", "duplicate key");
}

TEST(JsonText, BoundsTheDepth) {
  const std::string deep(100000, '[');
  expect_error(
      deep,
      "$" +
          [] {
            std::string path;
            for (int level = 0; level < 31; ++level) {
              path += "[0]";
            }
            return path;
          }(),
      "nested deeper than 32 levels");
  Limits limits;
  limits.max_depth = 3;
  expect_error(R"({"version": [[[1]]]})", "$.version[0]", "nested deeper than 3 levels", limits);
}

TEST(JsonText, BoundsTheSize) {
  Limits limits;
  limits.max_bytes = 10;
  expect_error("{\"a\": 1234}", "", "11 bytes are more than the limit of 10 bytes", limits);
}

TEST(JsonText, CutsLongMessages) {
  try {
    parse("\"" + std::string(1 << 20, 'x'), "long");
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_LT(error.reason().size(), 300U);
  }
}

TEST(JsonText, AcceptsAByteOrderMark) {
  EXPECT_EQ(parse("\xef\xbb\xbf" + kFile100, "bom"), parse(kFile100, "no bom"));
}

}  // namespace
}  // namespace aimet::encodings

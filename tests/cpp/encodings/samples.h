// Encodings files that the tests share: one of each version with every kind of entry.

#pragma once

#include "aimet/encodings/encodings.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace aimet::encodings::testing {

inline const std::string kFile061 = R"({"version": "0.6.1",
 "producer": {"package": "aimet-torch", "version": "2.42.0"},
 "activation_encodings": {
   "input": [{"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "min": -1.0, "max": 2.0,
              "scale": 0.011764705882352941, "offset": -85}],
   "inner": [{"bitwidth": 8, "dtype": "int"}],
   "gelu_out": [{"bitwidth": 16, "dtype": "float"}]},
 "param_encodings": {
   "conv1.weight": [
     {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "min": -1.28, "max": 1.27,
      "scale": 0.01, "offset": -128},
     {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "min": -2.56, "max": 2.54,
      "scale": 0.02, "offset": -128}]},
 "excluded_layers": ["fc3"],
 "quantizer_args": {"activation_bitwidth": 8, "param_bitwidth": 8, "dtype": "int",
                    "is_symmetric": true, "per_channel_quantization": true,
                    "quant_scheme": "post_training_tf_enhanced"}})";

inline const std::string kFile100 = R"({"version": "1.0.0",
 "producer": {"package": "aimet-torch", "version": "2.42.0"},
 "activation_encodings": [
   {"name": "input", "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": false,
    "scale": [0.011764705882352941], "offset": [-85]},
   {"name": "gelu_out", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16}],
 "param_encodings": [
   {"name": "conv1.weight", "enc_type": "PER_CHANNEL", "dtype": "INT", "bw": 8, "is_sym": true,
    "scale": [0.01, 0.02], "offset": [-128, -128]},
   {"name": "fc1.weight", "enc_type": "PER_BLOCK", "dtype": "INT", "bw": 4, "is_sym": true,
    "block_size": 16, "scale": [0.01, 0.02, 0.03, 0.04], "offset": [-8, -8, -8, -8]},
   {"name": "fc2.weight", "enc_type": "LPBQ", "dtype": "INT", "bw": 8, "compressed_bw": 4,
    "is_sym": true, "block_size": 16, "scale": [0.001, 0.002], "offset": [-128, -128],
    "per_block_int_scale": [3, 16, 9, 12]}],
 "excluded_layers": [],
 "quantizer_args": {"activation_bitwidth": 8, "quant_scheme": "min_max"}})";

// Activations filed under modules; no version.
inline const std::string kFileTorch = R"({
 "activation_encodings": {
   "conv1": {"input": {"0": {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "min": -1.0,
                             "max": 2.0, "scale": 0.011764705882352941, "offset": -85}}},
   "add": {"input": {"1": {"bitwidth": 16, "dtype": "float"}},
           "output": {"0": [{"bitwidth": 4, "dtype": "int", "is_symmetric": "True", "min": -0.8,
                             "max": 0.7, "scale": 0.1, "offset": -8}]}}},
 "param_encodings": {}})";

inline const std::string kFile200 = R"({"version": "2.0.0",
 "producer": {"package": "aimet-torch", "version": "2.42.0"},
 "encodings": [
   {"name": "input", "output_dtype": "uint8", "y_scale": 0.011764705882352941, "y_zero_point": 85},
   {"name": "conv1.weight", "output_dtype": "int8", "y_scale": [0.01, 0.02], "axis": 0},
   {"name": "conv1.bias", "output_dtype": "int32",
    "y_scale": [0.00011764705882352942, 0.00023529411764705883], "axis": 0},
   {"name": "fc1.weight", "output_dtype": "int4", "y_scale": [[0.01, 0.02], [0.03, 0.04]],
    "y_zero_point": [[0, 1], [0, -8]], "axis": 1, "block_size": 16},
   {"name": "fc2.weight", "output_dtype": "int4", "per_block_int_scale": [[3, 16], [9, 12]],
    "per_channel_float_scale": [[0.001], [0.002]], "axis": 1, "block_size": 16},
   {"name": "w_int2", "output_dtype": "int2", "y_scale": [0.5, 0.25], "y_zero_point": [-0.5, -0.5],
    "axis": 0},
   {"name": "mx", "output_dtype": "float4e2m1", "y_scale": [[0.5, 0.25]], "axis": -1,
    "block_size": 32},
   {"name": "kv", "output_dtype": "float8e4m3fn", "y_scale": 0.0125}]})";

inline const std::string kFile210 = R"({"version": "2.1.0", "encodings": [
   {"name": "scores", "output_dtype": "uint16", "y_scale": 0.25},
   {"name": "fc2.weight", "output_dtype": "int4", "axis": 1, "block_size": 16,
    "y_scale": {"x": [[3, 16], [9, 12]], "x_scale": [0.001, 0.002], "axis": 0}},
   {"name": "fc3.weight", "output_dtype": "float4e2m1", "axis": 1, "block_size": 16,
    "y_scale": {"x": [[0.5, 1.0], [2.0, 1.5]], "x_scale": 0.0009,
                "input_dtype": "float8e4m3fn"}}]})";

// One file of each kind.
inline const std::vector<std::string> kAllFiles = {kFile061, kFile100, kFileTorch, kFile200,
                                                   kFile210};

// Replaces the only occurrence of `before`.
inline std::string replaced(std::string text, const std::string& before, const std::string& after) {
  const size_t position = text.find(before);
  EXPECT_NE(position, std::string::npos) << "the sample does not hold " << before;
  EXPECT_EQ(text.find(before, position + 1), std::string::npos) << before << " occurs twice";
  return text.replace(position, before.size(), after);
}

// Expects that `parse(text)` throws `Error` at `location` with `reason` in its message.
template <typename Error = FormatError>
void expect_error(const std::string& text, const std::string& location, const std::string& reason,
                  const Limits& limits = {}) {
  try {
    parse(text, "model.encodings", limits);
    FAIL() << "accepted: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.source(), "model.encodings");
    EXPECT_EQ(error.location(), location) << error.what();
    EXPECT_NE(error.reason().find(reason), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find("model.encodings: "), 0U) << error.what();
  }
}

}  // namespace aimet::encodings::testing

// The floating-point formats that files name. Internal to the encodings library.

#pragma once

#include "aimet/core/float_format.h"

#include <string_view>

namespace aimet::encodings {

// The format that ONNX calls `name`, nullptr when files hold no such format.
const core::FloatFormat* find_float_format(std::string_view name);

// Bits of the format that ONNX calls `name`, 0 when files hold no such format.
int float_format_bits(std::string_view name);

// Whether `value` is a number of the format.
bool is_number_of_format(double value, std::string_view name);

// All names, for messages.
constexpr std::string_view kFloatFormatNames =
    "float4e2m1, float8e4m3fn, float8e4m3fnuz, float8e5m2 or float8e5m2fnuz";

}  // namespace aimet::encodings

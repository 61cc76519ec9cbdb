// The floating-point formats that files name. Internal to the encodings library.

#pragma once

#include <string_view>

namespace aimet::encodings {

// Bits of the format that ONNX calls `name`, 0 when files hold no such format.
int float_format_bits(std::string_view name);

// Whether `value` is a number of the format.
bool is_number_of_format(double value, std::string_view name);

// All names, for messages.
constexpr std::string_view kFloatFormatNames =
    "float4e2m1, float8e4m3fn, float8e4m3fnuz, float8e5m2 or float8e5m2fnuz";

}  // namespace aimet::encodings

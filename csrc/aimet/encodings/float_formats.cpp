// ONNX's names of small floating-point formats; their numbers are core's.

#include "aimet/encodings/float_formats.h"

#include "aimet/core/float_format.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace aimet::encodings {
namespace {

struct NamedFormat {
  std::string_view name;
  core::FloatFormat format;
};

constexpr std::array<NamedFormat, 5> kFormats = {{
    {"float4e2m1", {2, 1, true, false}},
    {"float8e4m3fn", {4, 3, true, false}},
    {"float8e4m3fnuz", {4, 3, true, true}},
    {"float8e5m2", {5, 2, false, false}},
    {"float8e5m2fnuz", {5, 2, true, true}},
}};

const NamedFormat* find_format(std::string_view name) {
  const auto* const found =
      std::find_if(kFormats.begin(), kFormats.end(),
                   [&](const NamedFormat& format) { return format.name == name; });
  return found == kFormats.end() ? nullptr : found;
}

}  // namespace

const core::FloatFormat* find_float_format(std::string_view name) {
  const NamedFormat* found = find_format(name);
  return found == nullptr ? nullptr : &found->format;
}

int float_format_bits(std::string_view name) {
  const NamedFormat* found = find_format(name);
  return found == nullptr ? 0 : 1 + found->format.exponent_bits + found->format.mantissa_bits;
}

bool is_number_of_format(double value, std::string_view name) {
  const NamedFormat* found = find_format(name);
  if (found == nullptr || !std::isfinite(value)) {
    return false;
  }
  const auto rounding = core::rounding_of<double>(core::float_grid(found->format, true));
  return core::round_to_format(value, rounding) == value;
}

}  // namespace aimet::encodings

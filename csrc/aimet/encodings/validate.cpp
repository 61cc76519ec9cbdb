// Consistency of one encoding and of a whole document.

#include "aimet/encodings/validate.h"

#include "aimet/encodings/encodings.h"
#include "aimet/encodings/json_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <unordered_set>
#include <variant>

namespace aimet::encodings {
namespace {

// Product of `shape`, or -1 when a size is not positive or the product overflows.
int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 1 || count > std::numeric_limits<int64_t>::max() / size) {
      return -1;
    }
    count *= size;
  }
  return count;
}

std::string find_bitwidth_error(const TensorEncoding& encoding) {
  if (encoding.dtype == DataType::kFloat) {
    return encoding.bitwidth == 16 || encoding.bitwidth == 32
               ? ""
               : fmt::format("a float encoding has a bitwidth of 16 or 32, got {}",
                             encoding.bitwidth);
  }
  if (encoding.bitwidth < kMinBitwidth || encoding.bitwidth > kMaxBitwidth) {
    return fmt::format("`bitwidth` must be between {} and {}, got {}", kMinBitwidth, kMaxBitwidth,
                       encoding.bitwidth);
  }
  return "";
}

std::string find_lpbq_error(const TensorEncoding& encoding) {
  const int decompressed = *encoding.decompressed_bitwidth;
  if (decompressed <= encoding.bitwidth || decompressed > kMaxBitwidth) {
    return fmt::format(
        "`decompressed_bitwidth` must be above `bitwidth` ({}) and at most {}, "
        "got {}",
        encoding.bitwidth, kMaxBitwidth, decompressed);
  }
  if (!encoding.is_signed || !encoding.is_symmetric || encoding.is_strict_symmetric ||
      std::any_of(encoding.offset.begin(), encoding.offset.end(),
                  [](int64_t offset) { return offset != 0; })) {
    return "LPBQ encodings are signed, symmetric and have offset 0";
  }
  if (!encoding.block_size) {
    return "LPBQ encodings need a `block_size`";
  }
  const size_t block_count = encoding.per_block_int_scale.size();
  if (block_count == 0 || block_count % encoding.scale.size() != 0) {
    return fmt::format("{} values of `per_block_int_scale` do not divide into {} channels",
                       block_count, encoding.scale.size());
  }
  const int64_t highest = int64_t{1} << (decompressed - encoding.bitwidth);
  for (const int64_t value : encoding.per_block_int_scale) {
    if (value < 1 || value > highest) {
      return fmt::format("`per_block_int_scale` must be between 1 and {}, got {}", highest, value);
    }
  }
  return "";
}

std::string find_shape_error(const TensorEncoding& encoding) {
  const size_t value_count =
      encoding.is_lpbq() ? encoding.per_block_int_scale.size() : encoding.scale.size();
  if (element_count(encoding.shape) != static_cast<int64_t>(value_count)) {
    return fmt::format("`shape` [{}] does not hold {} values", fmt::join(encoding.shape, ", "),
                       value_count);
  }
  if (encoding.block_size && *encoding.block_size < 1) {
    return fmt::format("`block_size` must be positive, got {}", *encoding.block_size);
  }
  const auto is_wide = [](int64_t size) { return size > 1; };
  const auto wide_dims = std::count_if(encoding.shape.begin(), encoding.shape.end(), is_wide);
  if (!encoding.block_size && wide_dims > 1) {
    return fmt::format("`shape` [{}] varies along {} axes, which needs a `block_size`",
                       fmt::join(encoding.shape, ", "), wide_dims);
  }
  if (!encoding.channel_axis) {
    return "";
  }
  // The tensor has as many axes as `shape` or more, in front.
  const auto first_wide = std::find_if(encoding.shape.begin(), encoding.shape.end(), is_wide);
  const int64_t lowest_axis = wide_dims == 0 ? 0 : first_wide - encoding.shape.begin();
  if (*encoding.channel_axis < lowest_axis || encoding.shape.empty()) {
    return fmt::format("`channel_axis` {} cannot be the axis along which `shape` [{}] varies",
                       *encoding.channel_axis, fmt::join(encoding.shape, ", "));
  }
  return "";
}

std::string find_grid_error(const TensorEncoding& encoding) {
  if (encoding.offset.size() != encoding.scale.size()) {
    return fmt::format("{} values of `scale` but {} of `offset`", encoding.scale.size(),
                       encoding.offset.size());
  }
  for (const double scale : encoding.scale) {
    if (!is_valid_scale(scale)) {
      return fmt::format("a scale must be positive and finite in float32, got {}", scale);
    }
  }
  if (encoding.is_strict_symmetric && !(encoding.is_signed && encoding.is_symmetric)) {
    return "`strict_symmetric` needs `signed` and `symmetric`";
  }
  // real 0 is on the grid: -offset is one of its levels.
  const int64_t lowest = encoding.is_strict_symmetric ? -half_level_count(encoding.bitwidth)
                                                      : 1 - level_count(encoding.bitwidth);
  const int64_t highest = encoding.is_strict_symmetric ? lowest : 0;
  for (const int64_t offset : encoding.offset) {
    // Bounded first, so that the conversion cannot overflow.
    const bool is_bounded =
        offset >= -level_count(kMaxBitwidth) && offset <= level_count(kMaxBitwidth);
    if (!is_bounded || unsigned_offset(encoding, offset) < lowest ||
        unsigned_offset(encoding, offset) > highest) {
      const int64_t shift = encoding.is_signed ? half_level_count(encoding.bitwidth) : 0;
      return fmt::format("`offset` must be between {} and {} for {} {} bits, got {}",
                         lowest + shift, highest + shift, encoding.bitwidth,
                         encoding.is_signed ? "signed" : "unsigned", offset);
    }
  }
  if (encoding.zero_point_shift != 0.0 && encoding.zero_point_shift != 0.5) {
    return fmt::format("`zero_point_shift` must be 0 or 0.5, got {}", encoding.zero_point_shift);
  }
  if (encoding.is_lpbq()) {
    const std::string error = find_lpbq_error(encoding);
    if (!error.empty()) {
      return error;
    }
  } else if (!encoding.per_block_int_scale.empty()) {
    return "`per_block_int_scale` needs a `decompressed_bitwidth`";
  }
  return find_shape_error(encoding);
}

void validate_section(const std::vector<TensorEncoding>& section, std::string_view section_name,
                      const std::string& source) {
  std::unordered_set<std::string> seen;
  for (size_t index = 0; index < section.size(); ++index) {
    const TensorEncoding& encoding = section[index];
    std::string error = find_inconsistency(encoding);
    std::string key = encoding.name;
    if (encoding.slot) {
      key += fmt::format("\n{}{}", encoding.slot->kind == ModuleSlot::Kind::kInput ? "in" : "out",
                         encoding.slot->index);
    }
    if (error.empty() && !seen.insert(key).second) {
      error = fmt::format("a second encoding of `{}`", encoding.name);
    }
    if (!error.empty()) {
      throw FormatError(source, fmt::format("$.{}[{}]", section_name, index), error);
    }
  }
}

}  // namespace

bool is_valid_scale(double scale) {
  // The upper bound comes first: converting a larger value to float is undefined.
  return scale <= static_cast<double>(std::numeric_limits<float>::max()) &&
         static_cast<float>(scale) > 0.0F;
}

std::string find_inconsistency(const TensorEncoding& encoding) {
  if (encoding.name.empty() && !encoding.slot) {  // the model itself is the module ""
    return "`name` must not be empty";
  }
  if (encoding.slot && encoding.slot->index < 0) {
    return fmt::format("the index of a module's input or output must not be negative, got {}",
                       encoding.slot->index);
  }
  std::string error = find_bitwidth_error(encoding);
  if (error.empty() && encoding.has_grid()) {
    error = find_grid_error(encoding);
  } else if (error.empty() && !(encoding.offset.empty() && encoding.scale.empty())) {
    error = encoding.dtype == DataType::kFloat ? "a float encoding has no `scale` and no `offset`"
                                               : "`offset` without `scale`";
  }
  return error;
}

void validate(const EncodingsDocument& document, const std::string& source) {
  validate_section(document.activation_encodings, "activation_encodings", source);
  validate_section(document.param_encodings, "param_encodings", source);
  for (const auto& [key, value] : document.quantizer_args) {
    const double* number = std::get_if<double>(&value);
    if (number != nullptr && !std::isfinite(*number)) {
      throw FormatError(source, "$.quantizer_args" + json_path_step(key),
                        fmt::format("must be finite, got {}", *number));
    }
  }
}

}  // namespace aimet::encodings

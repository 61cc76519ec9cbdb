// Consistency of one encoding and of a whole document.

#include "aimet/encodings/validate.h"

#include "aimet/encodings/encodings.h"
#include "aimet/encodings/float_formats.h"
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

std::string find_type_error(const TensorEncoding& encoding) {
  if (encoding.dtype == DataType::kInt) {
    if (!encoding.float_format.empty()) {
      return "an integer encoding has no `format`";
    }
    return encoding.bitwidth >= kMinBitwidth && encoding.bitwidth <= kMaxBitwidth
               ? ""
               : fmt::format("`bitwidth` must be between {} and {}, got {}", kMinBitwidth,
                             kMaxBitwidth, encoding.bitwidth);
  }
  if (encoding.float_format.empty()) {
    return encoding.bitwidth == 16 || encoding.bitwidth == 32
               ? ""
               : fmt::format("a float encoding has a bitwidth of 16 or 32, got {}",
                             encoding.bitwidth);
  }
  const int bits = float_format_bits(encoding.float_format);
  if (bits == 0) {
    return fmt::format("`format` must be {}, got \"{}\"", kFloatFormatNames, encoding.float_format);
  }
  return encoding.bitwidth == bits ? ""
                                   : fmt::format("`bitwidth` of {} is {}, got {}",
                                                 encoding.float_format, bits, encoding.bitwidth);
}

// Every channel has the same number of blocks.
std::string find_block_count_error(const TensorEncoding& encoding, std::string_view field,
                                   size_t block_count) {
  if (!encoding.block_size) {
    return fmt::format("`{}` needs a `block_size`", field);
  }
  return block_count > 0 && block_count % encoding.scale.size() == 0
             ? ""
             : fmt::format("{} values of `{}` do not divide into {} channels", block_count, field,
                           encoding.scale.size());
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
  const std::string error =
      find_block_count_error(encoding, "per_block_int_scale", encoding.per_block_int_scale.size());
  if (!error.empty()) {
    return error;
  }
  const int64_t highest = int64_t{1} << (decompressed - encoding.bitwidth);
  for (const int64_t value : encoding.per_block_int_scale) {
    if (value < 1 || value > highest) {
      return fmt::format("`per_block_int_scale` must be between 1 and {}, got {}", highest, value);
    }
  }
  return "";
}

std::string find_block_float_error(const TensorEncoding& encoding) {
  if (encoding.is_lpbq()) {
    return "scales of blocks are either integers or floats, not both";
  }
  if (float_format_bits(encoding.block_scale_format) == 0) {
    return fmt::format("`block_scale_format` must be {}, got \"{}\"", kFloatFormatNames,
                       encoding.block_scale_format);
  }
  for (const double value : encoding.per_block_float_scale) {
    if (!(value >= 0.0) || !is_number_of_format(value, encoding.block_scale_format)) {
      return fmt::format("`per_block_float_scale` must be no negative number of {}, got {}",
                         encoding.block_scale_format, value);
    }
  }
  return find_block_count_error(encoding, "per_block_float_scale",
                                encoding.per_block_float_scale.size());
}

size_t shape_value_count(const TensorEncoding& encoding) {
  return encoding.is_lpbq()          ? encoding.per_block_int_scale.size()
         : encoding.has_two_levels() ? encoding.per_block_float_scale.size()
                                     : encoding.scale.size();
}

std::string find_axis_error(const TensorEncoding& encoding) {
  const auto rank = static_cast<int64_t>(encoding.shape.size());
  if (encoding.block_axis) {
    if (!encoding.block_size) {
      return "`block_axis` needs a `block_size`";
    }
    if (*encoding.block_axis < 0 || *encoding.block_axis >= rank) {
      return fmt::format("`block_axis` {} is no axis of `shape` [{}]", *encoding.block_axis,
                         fmt::join(encoding.shape, ", "));
    }
  }
  if (!encoding.channel_axis) {
    return "";
  }
  // The tensor has as many axes as `shape` or more, in front; a count alone may lie on any axis.
  int64_t lowest = 0;
  while (lowest < rank &&
         (lowest == encoding.block_axis || encoding.shape[static_cast<size_t>(lowest)] == 1)) {
    ++lowest;
  }
  const bool has_channels = lowest < rank;
  const int64_t axis = *encoding.channel_axis;
  const bool is_possible = axis >= 0 ? axis >= (has_channels ? lowest : 0)
                                     : rank == 1 || !has_channels || axis == lowest - rank;
  if (rank == 0 || !is_possible || axis < -kMaxRank || axis >= kMaxRank) {
    return fmt::format("`channel_axis` {} cannot be the axis along which `shape` [{}] varies", axis,
                       fmt::join(encoding.shape, ", "));
  }
  return "";
}

std::string find_shape_error(const TensorEncoding& encoding) {
  const size_t value_count = shape_value_count(encoding);
  if (element_count(encoding.shape) != static_cast<int64_t>(value_count)) {
    return fmt::format("`shape` [{}] does not hold {} values", fmt::join(encoding.shape, ", "),
                       value_count);
  }
  if (encoding.block_size && *encoding.block_size < 1) {
    return fmt::format("`block_size` must be positive, got {}", *encoding.block_size);
  }
  const auto wide_dims = std::count_if(encoding.shape.begin(), encoding.shape.end(),
                                       [](int64_t size) { return size > 1; });
  if (!encoding.block_size && wide_dims > 1) {
    return fmt::format("`shape` [{}] varies along {} axes, which needs a `block_size`",
                       fmt::join(encoding.shape, ", "), wide_dims);
  }
  return find_axis_error(encoding);
}

std::string find_scale_error(const TensorEncoding& encoding) {
  for (const double scale : encoding.scale) {
    if (!is_valid_scale(scale)) {
      return fmt::format("a scale must be positive and finite in float32, got {}", scale);
    }
  }
  if (!encoding.is_lpbq() && !encoding.per_block_int_scale.empty()) {
    return "`per_block_int_scale` needs a `decompressed_bitwidth`";
  }
  if (encoding.per_block_float_scale.empty() != encoding.block_scale_format.empty()) {
    return "`per_block_float_scale` and `block_scale_format` need each other";
  }
  std::string error;
  if (encoding.is_lpbq()) {
    error = encoding.dtype == DataType::kInt ? find_lpbq_error(encoding)
                                             : "LPBQ encodings are of integers";
  }
  if (error.empty() && !encoding.per_block_float_scale.empty()) {
    error = find_block_float_error(encoding);
  }
  return error.empty() ? find_shape_error(encoding) : error;
}

std::string find_grid_error(const TensorEncoding& encoding) {
  if (encoding.offset.size() != encoding.scale.size()) {
    return fmt::format("{} values of `scale` but {} of `offset`", encoding.scale.size(),
                       encoding.offset.size());
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
  return "";
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

std::optional<std::vector<int64_t>> shape_of_blocks(const TensorFacts& facts, int64_t block_size) {
  const auto rank = static_cast<int64_t>(facts.shape.size());
  const int64_t channel = facts.channel_axis.value_or(-1);
  const int64_t block = facts.block_axis.value_or(-1);
  if (!facts.has_shape || channel < 0 || channel >= rank || block < 0 || block >= rank ||
      channel == block) {
    return std::nullopt;
  }
  std::vector<int64_t> shape(facts.shape.size(), 1);
  shape[static_cast<size_t>(channel)] = facts.shape[static_cast<size_t>(channel)];
  const int64_t size = facts.shape[static_cast<size_t>(block)];
  shape[static_cast<size_t>(block)] = size / block_size + (size % block_size != 0 ? 1 : 0);
  return shape;
}

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
  std::string error = find_type_error(encoding);
  if (!error.empty()) {
    return error;
  }
  const bool is_float = encoding.dtype == DataType::kFloat;
  if (!encoding.has_scale()) {
    const bool is_empty = encoding.offset.empty() && !encoding.has_two_levels() &&
                          encoding.shape.empty() && !encoding.block_size;
    return !is_empty ? "`offset`, `shape` or blocks without `scale`"
           : encoding.float_format.empty()
               ? ""
               : fmt::format("{} needs a `scale`", encoding.float_format);
  }
  if (is_float && encoding.float_format.empty()) {
    return "a float encoding has no `scale` and no `offset`";
  }
  if (is_float && (!encoding.offset.empty() || encoding.zero_point_shift != 0.0 ||
                   encoding.is_strict_symmetric)) {
    return "a float encoding has no `offset`, no `zero_point_shift` and no integer grid";
  }
  if (!is_float) {
    error = find_grid_error(encoding);
  }
  return error.empty() ? find_scale_error(encoding) : error;
}

void validate(const EncodingsDocument& document, const std::string& source) {
  validate_section(document.activation_encodings, "activation_encodings", source);
  validate_section(document.param_encodings, "param_encodings", source);
  validate_section(document.encodings, "encodings", source);
  for (const auto& [key, value] : document.quantizer_args) {
    const double* number = std::get_if<double>(&value);
    if (number != nullptr && !std::isfinite(*number)) {
      throw FormatError(source, "$.quantizer_args" + json_path_step(key),
                        fmt::format("must be finite, got {}", *number));
    }
  }
}

}  // namespace aimet::encodings

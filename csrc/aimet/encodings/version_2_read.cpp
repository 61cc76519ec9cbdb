// Reads files of versions 2.0.0 and 2.1.0: one list of entries with the parameters of ONNX's
// QuantizeLinear. A scale is a number, a list (with `axis`, of the channels) or nested lists (with
// `axis` and `block_size`, of the blocks); their nesting is the shape. Scales of two levels are
// `per_block_int_scale` * `per_channel_float_scale` in 2.0.0, and in 2.1.0 a table that quantizes
// the scales themselves.

#include "aimet/encodings/float_formats.h"
#include "aimet/encodings/format.h"
#include "aimet/encodings/nested.h"
#include "aimet/encodings/sections.h"
#include "aimet/encodings/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace aimet::encodings {
namespace {

constexpr int64_t kMaxBlockSize = std::numeric_limits<uint32_t>::max();
constexpr int64_t kMaxIntScale = std::numeric_limits<uint16_t>::max();

void read_output_dtype(const JsonView& view, TensorEncoding& encoding) {
  const std::string name = view.string();
  if (const int bits = float_format_bits(name); bits != 0) {
    encoding.dtype = DataType::kFloat;
    encoding.float_format = name;
    encoding.bitwidth = bits;
    return;
  }
  for (const int bits : {2, 4, 8, 16, 32}) {
    const std::string integer = fmt::format("int{}", bits);
    if (name == integer || (bits < 32 && name == "u" + integer)) {
      encoding.bitwidth = bits;
      encoding.is_signed = name == integer;
      return;
    }
  }
  view.fail(fmt::format("must be an integer type of 2, 4, 8 or 16 bits, int32, {}, got \"{}\"",
                        kFloatFormatNames, name));
}

double read_scale_number(const JsonView& view) {
  return view.scale();
}
double read_plain_number(const JsonView& view) {
  return view.number();
}
double read_int_scale(const JsonView& view) {
  return static_cast<double>(view.integer(1, kMaxIntScale));
}

std::optional<int64_t> read_axis(const JsonView& table) {
  const auto view = table.find("axis");
  return view ? std::optional(view->integer(-kMaxRank, kMaxRank - 1)) : std::nullopt;
}

std::optional<int64_t> read_block_size(const JsonView& entry) {
  const auto view = entry.find("block_size");
  return view ? std::optional(view->integer(1, kMaxBlockSize)) : std::nullopt;
}

bool is_zero(const JsonView& view) {
  const Nested nested = read_nested(view, read_plain_number);
  return std::all_of(nested.values.begin(), nested.values.end(),
                     [](double value) { return value == 0.0; });
}

// The axis besides that of the blocks along which scales vary; where there is one channel only, the
// first one.
std::optional<int64_t> channel_axis_of(const std::vector<int64_t>& shape, int64_t block_axis) {
  std::optional<int64_t> found;
  for (int64_t axis = 0; axis < static_cast<int64_t>(shape.size()); ++axis) {
    if (axis == block_axis || shape[static_cast<size_t>(axis)] == 1) {
      continue;
    }
    if (found) {
      return std::nullopt;
    }
    found = axis;
  }
  if (!found && shape.size() > 1) {
    found = block_axis == 0 ? 1 : 0;
  }
  return found;
}

void set_blocks(const JsonView& entry, const std::vector<int64_t>& shape,
                TensorEncoding& encoding) {
  const auto axis = read_axis(entry);
  const auto rank = static_cast<int64_t>(shape.size());
  if (!axis) {
    entry.fail("`block_size` needs `axis`, the axis of the blocks");
  }
  if (*axis < -rank || *axis >= rank) {
    entry.member("axis").fail(
        fmt::format("is no axis of scales that are nested {} deep, got {}", rank, *axis));
  }
  encoding.shape = shape;
  encoding.block_size = read_block_size(entry);
  encoding.block_axis = *axis < 0 ? *axis + rank : *axis;
  encoding.channel_axis = channel_axis_of(shape, *encoding.block_axis);
}

void set_channels(const JsonView& entry, const JsonView& scale_view, Nested scale,
                  TensorEncoding& encoding) {
  const auto axis = read_axis(entry);
  if (scale.shape.size() > 1) {
    scale_view.fail("nested lists of scales need `block_size`");
  }
  if (axis && scale.shape.empty()) {
    scale_view.fail("must be a list where there is an `axis`");
  }
  if (!axis && scale.values.size() > 1) {
    entry.fail("a list of scales needs `axis`, the axis of the channels");
  }
  encoding.channel_axis = axis;
  if (axis) {
    encoding.shape = std::move(scale.shape);
  }
}

// real = (q - zero_point) * scale; grids shifted by half a step have zero points such as -0.5.
void read_zero_points(const JsonView& entry, const std::vector<int64_t>& shape,
                      TensorEncoding& encoding) {
  encoding.offset.assign(encoding.scale.size(), 0);
  const auto view = entry.find("y_zero_point");
  if (view) {
    const Nested points = read_nested(*view, read_plain_number);
    if (!points.shape.empty() && points.shape != shape) {
      view->fail("must be one number, or as many and nested as the scales");
    }
    const double shift = std::trunc(points.values.front()) == points.values.front() ? 0.0 : 0.5;
    const double limit = std::ldexp(1.0, kMaxBitwidth);
    for (size_t index = 0; index < encoding.offset.size(); ++index) {
      const double point = points.values[points.shape.empty() ? 0 : index];
      const double offset = -point - shift;
      if (!(std::fabs(point) <= limit) || std::trunc(offset) != offset) {
        view->fail(fmt::format(
            "must hold integers of the type, or all of them shifted by -0.5, got {}", point));
      }
      encoding.offset[index] = static_cast<int64_t>(offset);
    }
    encoding.zero_point_shift = shift;
  }
  encoding.is_symmetric =
      encoding.is_signed && std::all_of(encoding.offset.begin(), encoding.offset.end(),
                                        [](int64_t offset) { return offset == 0; });
}

// Of LPBQ, files have the bits of the compressed integers only. Twice as many is what everybody
// uses.
int decompressed_bitwidth_of(const TensorEncoding& encoding) {
  const int64_t highest =
      *std::max_element(encoding.per_block_int_scale.begin(), encoding.per_block_int_scale.end());
  int bits = encoding.bitwidth;
  while ((int64_t{1} << (bits - encoding.bitwidth)) < highest) {
    ++bits;
  }
  return std::min(std::max(bits, 2 * encoding.bitwidth), kMaxBitwidth);
}

void expect_no_zero_point(const JsonView& entry) {
  if (const auto view = entry.find("y_zero_point"); view && !is_zero(*view)) {
    view->fail("must be 0 beside scales of two levels");
  }
}

void set_int_scales(const JsonView& entry, const JsonView& view, TensorEncoding& encoding) {
  if (encoding.dtype != DataType::kInt || !encoding.is_signed) {
    entry.member("output_dtype").fail("must be a signed integer type where scales are integers");
  }
  const Nested ints = read_nested(view, read_int_scale);
  for (const double value : ints.values) {
    encoding.per_block_int_scale.push_back(static_cast<int64_t>(value));
  }
  encoding.decompressed_bitwidth = decompressed_bitwidth_of(encoding);
  encoding.is_symmetric = true;
  encoding.offset.assign(encoding.scale.size(), 0);
  set_blocks(entry, ints.shape, encoding);
}

// Version 2.0.0: per_block_int_scale * per_channel_float_scale, which broadcast.
void read_two_fields(const JsonView& entry, TensorEncoding& encoding) {
  const JsonView channels_view = entry.member("per_channel_float_scale");
  Nested channels = read_nested(channels_view, read_scale_number);
  encoding.scale = std::move(channels.values);
  set_int_scales(entry, entry.member("per_block_int_scale"), encoding);
  if (!channels.shape.empty() && channels.shape.size() != encoding.shape.size()) {
    channels_view.fail("must be nested as deep as `per_block_int_scale`");
  }
  std::optional<int64_t> channel_axis;
  for (size_t axis = 0; axis < channels.shape.size(); ++axis) {
    if (channels.shape[axis] == 1) {
      continue;
    }
    if (channel_axis || static_cast<int64_t>(axis) == *encoding.block_axis ||
        channels.shape[axis] != encoding.shape[axis]) {
      channels_view.fail(
          "must vary along one axis, not that of the blocks, and hold as many "
          "values there as `per_block_int_scale`");
    }
    channel_axis = static_cast<int64_t>(axis);
  }
  if (channel_axis) {
    encoding.channel_axis = channel_axis;
  }
}

// Version 2.1.0: {"x": scales of blocks in a smaller type, "x_scale": their scale, ...}.
void read_table(const JsonView& entry, const JsonView& table, TensorEncoding& encoding) {
  table.expect_keys({"x", "x_scale", "x_zero_point", "input_dtype", "axis", "block_size"});
  if (const auto block_size = table.find("block_size")) {
    block_size->fail_unsupported("scales of three levels are not supported");
  }
  if (const auto zero_point = table.find("x_zero_point"); zero_point && !is_zero(*zero_point)) {
    zero_point->fail_unsupported("scales with a zero point are not supported");
  }
  const JsonView x_scale_view = table.member("x_scale");
  Nested x_scale = read_nested(x_scale_view, read_scale_number);
  const auto axis = read_axis(table);
  if (x_scale.shape.size() > 1) {
    x_scale_view.fail("must be a number, or a list with `axis`");
  }
  if (!axis && x_scale.values.size() > 1) {
    table.fail("a list of scales needs `axis`, the axis of the channels");
  }
  encoding.scale = std::move(x_scale.values);
  const JsonView x = table.member("x");
  std::string input_dtype;
  if (const auto view = table.find("input_dtype")) {
    input_dtype = view->string();
    if (float_format_bits(input_dtype) == 0 && !input_dtype.starts_with("int") &&
        !input_dtype.starts_with("uint")) {
      view->fail(fmt::format("must be an integer type, {}", kFloatFormatNames));
    }
  }
  if (float_format_bits(input_dtype) == 0) {
    set_int_scales(entry, x, encoding);
  } else {
    Nested floats = read_nested(x, read_plain_number);
    encoding.block_scale_format = input_dtype;
    encoding.per_block_float_scale = std::move(floats.values);
    set_blocks(entry, floats.shape, encoding);
    if (encoding.dtype == DataType::kInt) {
      encoding.offset.assign(encoding.scale.size(), 0);
      encoding.is_symmetric = encoding.is_signed;
    }
  }
  if (!axis || encoding.scale.size() == 1) {
    return;
  }
  const auto rank = static_cast<int64_t>(encoding.shape.size());
  const int64_t channel_axis = *axis < 0 ? *axis + rank : *axis;
  if (channel_axis < 0 || channel_axis >= rank || channel_axis == *encoding.block_axis ||
      encoding.shape[static_cast<size_t>(channel_axis)] !=
          static_cast<int64_t>(encoding.scale.size())) {
    table.fail(
        fmt::format("`axis` {} of `x` does not hold {} channels", *axis, encoding.scale.size()));
  }
  encoding.channel_axis = channel_axis;
}

void read_plain_scale(const JsonView& entry, TensorEncoding& encoding) {
  const JsonView view = entry.member("y_scale");
  Nested scale = read_nested(view, read_scale_number);
  encoding.scale = scale.values;
  const std::vector<int64_t> shape = scale.shape;
  if (read_block_size(entry)) {
    set_blocks(entry, shape, encoding);
  } else {
    set_channels(entry, view, std::move(scale), encoding);
  }
  if (encoding.dtype == DataType::kInt) {
    read_zero_points(entry, shape, encoding);
  } else if (const auto point = entry.find("y_zero_point"); point && !is_zero(*point)) {
    point->fail("must be 0 for a floating-point type");
  }
}

TensorEncoding read_entry(const JsonView& entry, bool has_tables) {
  entry.expect_keys({"name", "output_dtype", "y_scale", "y_zero_point", "axis", "block_size",
                     "per_block_int_scale", "per_channel_float_scale"});
  TensorEncoding encoding;
  encoding.name = entry.member("name").string();
  read_output_dtype(entry.member("output_dtype"), encoding);
  const auto scale = entry.find("y_scale");
  if (entry.find("per_block_int_scale") || entry.find("per_channel_float_scale")) {
    if (scale) {
      scale->fail("stands for `per_block_int_scale` and `per_channel_float_scale`: give either");
    }
    expect_no_zero_point(entry);
    read_two_fields(entry, encoding);
  } else if (scale && scale->is_object()) {
    if (!has_tables) {
      scale->fail("must be a number or lists of numbers: tables begin with version 2.1.0");
    }
    expect_no_zero_point(entry);
    read_table(entry, *scale, encoding);
  } else {
    read_plain_scale(entry, encoding);
  }
  expect_consistent(encoding, entry);
  return encoding;
}

void read(const JsonView& root, EncodingsDocument& document, bool has_tables) {
  root.expect_keys({"version", "producer", "encodings", "excluded_layers", "quantizer_args"});
  document.encodings = read_list<TensorEncoding>(
      root.member("encodings"),
      [has_tables](const JsonView& entry) { return read_entry(entry, has_tables); });
  read_common_sections(root, document);
}

}  // namespace

void read_2_0_0(const JsonView& root, EncodingsDocument& document) {
  read(root, document, /*has_tables=*/false);
}

void read_2_1_0(const JsonView& root, EncodingsDocument& document) {
  read(root, document, /*has_tables=*/true);
}

}  // namespace aimet::encodings

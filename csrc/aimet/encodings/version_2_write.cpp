// Writes files of versions 2.0.0 and 2.1.0 (version_2_read.cpp has the format). Sections besides
// the entries have no place there and are left out.

#include "aimet/encodings/format.h"
#include "aimet/encodings/nested.h"
#include "aimet/encodings/sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace aimet::encodings {
namespace {

// What a writer needs to say where something does not fit.
struct Place {
  std::string_view version;
  std::string_view section;
  const std::string& source;
  const TensorEncoding& encoding;

  [[noreturn]] void fail(const std::string& reason) const {
    throw UnsupportedError(source, section_path(section, encoding),
                           fmt::format("version {} {}", version, reason));
  }
};

std::string output_dtype(const Place& place) {
  const TensorEncoding& encoding = place.encoding;
  if (encoding.dtype == DataType::kFloat) {
    return encoding.float_format;
  }
  const int bits = encoding.bitwidth;
  const bool is_known =
      bits == 2 || bits == 4 || bits == 8 || bits == 16 || (bits == 32 && encoding.is_signed);
  if (!is_known) {
    place.fail(fmt::format(
        "has integers of 2, 4, 8 and 16 bits, and of 32 bits with a sign, got {} bits {}", bits,
        encoding.is_signed ? "with a sign" : "without"));
  }
  return fmt::format("{}int{}", encoding.is_signed ? "" : "u", bits);
}

// The zero points as they stand in the file, nothing when all are 0, which is the default.
Json zero_points(const TensorEncoding& encoding, const std::vector<int64_t>& shape) {
  const bool is_zero = encoding.zero_point_shift == 0.0 &&
                       std::all_of(encoding.offset.begin(), encoding.offset.end(),
                                   [](int64_t offset) { return offset == 0; });
  if (is_zero) {
    return nullptr;
  }
  std::vector<Json> points;
  points.reserve(encoding.offset.size());
  for (const int64_t offset : encoding.offset) {
    points.push_back(encoding.zero_point_shift == 0.0
                         ? Json(-offset)
                         : Json(-static_cast<double>(offset) - encoding.zero_point_shift));
  }
  return to_nested_json(points, shape);
}

int64_t block_axis_of(const Place& place) {
  const TensorEncoding& encoding = place.encoding;
  if (!encoding.block_axis || encoding.shape.size() < 2) {
    place.fail(
        "needs the shape of the blocks and their axis, which are not known: the version that "
        "they come from holds neither; convert with the model at hand");
  }
  return *encoding.block_axis;
}

// The one axis along which the scales of two levels vary, a list over `shape` with ones elsewhere.
std::vector<int64_t> channel_shape(const Place& place) {
  const TensorEncoding& encoding = place.encoding;
  std::vector<int64_t> shape(encoding.shape.size(), 1);
  if (encoding.scale.size() == 1) {
    return shape;
  }
  if (!encoding.channel_axis || *encoding.channel_axis < 0 ||
      *encoding.channel_axis >= static_cast<int64_t>(shape.size()) ||
      encoding.shape[static_cast<size_t>(*encoding.channel_axis)] !=
          static_cast<int64_t>(encoding.scale.size())) {
    place.fail("needs the axis of the channels in the shape of the blocks");
  }
  shape[static_cast<size_t>(*encoding.channel_axis)] = static_cast<int64_t>(encoding.scale.size());
  return shape;
}

void write_two_levels(const Place& place, bool has_tables, Json& entry) {
  const TensorEncoding& encoding = place.encoding;
  const int64_t axis = block_axis_of(place);
  const std::vector<int64_t> channels = channel_shape(place);
  if (!has_tables) {
    if (!encoding.is_lpbq()) {
      place.fail("has no scales of blocks in floating point; write version 2.1.0");
    }
    entry["per_block_int_scale"] = to_nested_json(encoding.per_block_int_scale, encoding.shape);
    entry["per_channel_float_scale"] = to_nested_json(encoding.scale, channels);
  } else {
    Json table = Json::object();
    table["x"] = encoding.is_lpbq()
                     ? to_nested_json(encoding.per_block_int_scale, encoding.shape)
                     : to_nested_json(encoding.per_block_float_scale, encoding.shape);
    // LPBQ always has the list, NVFP4 one number for the tensor.
    if (encoding.is_lpbq() || encoding.scale.size() > 1) {
      table["x_scale"] = encoding.scale;
      table["axis"] = encoding.channel_axis.value_or(axis == 0 ? 1 : 0);
    } else {
      table["x_scale"] = encoding.scale.front();
    }
    if (!encoding.is_lpbq()) {
      table["input_dtype"] = encoding.block_scale_format;
    }
    entry["y_scale"] = std::move(table);
  }
  entry["axis"] = axis;
  entry["block_size"] = *encoding.block_size;
}

void write_one_level(const Place& place, Json& entry) {
  const TensorEncoding& encoding = place.encoding;
  std::vector<int64_t> shape;
  Json axis;
  if (encoding.block_size) {
    axis = block_axis_of(place);
    shape = encoding.shape;
  } else if (!encoding.shape.empty()) {
    if (!encoding.channel_axis) {
      place.fail(
          "needs the axis of the channels, which is not known: the version that they come "
          "from does not hold it; convert with the model at hand");
    }
    axis = *encoding.channel_axis;
    shape = {static_cast<int64_t>(encoding.scale.size())};
  }
  entry["y_scale"] = to_nested_json(encoding.scale, shape);
  if (Json points = zero_points(encoding, shape); !points.is_null()) {
    entry["y_zero_point"] = std::move(points);
  }
  if (!axis.is_null()) {
    entry["axis"] = std::move(axis);
  }
  if (encoding.block_size) {
    entry["block_size"] = *encoding.block_size;
  }
}

Json write_entry(const Place& place, bool has_tables) {
  const TensorEncoding& encoding = place.encoding;
  if (encoding.slot) {
    place.fail("names tensors, not inputs and outputs of modules; write version 0.6.1");
  }
  if (!encoding.has_scale()) {
    place.fail(fmt::format(
        "has no entries without a scale, here {} bits of {}; a tensor without an entry is floating "
        "point there, so leave it out",
        encoding.bitwidth, encoding.dtype == DataType::kInt ? "integers" : "floating point"));
  }
  if (encoding.is_strict_symmetric) {
    place.fail("has no integer type without its lowest number (`strict_symmetric`)");
  }
  Json entry = {{"name", encoding.name}, {"output_dtype", output_dtype(place)}};
  if (encoding.has_two_levels()) {
    write_two_levels(place, has_tables, entry);
  } else {
    write_one_level(place, entry);
  }
  return entry;
}

Json write(const EncodingsDocument& document, const std::string& source, std::string_view version) {
  const bool has_tables = version != "2.0.0";
  Json root = {{"version", version}};
  write_producer(document, root);
  Json list = Json::array();
  std::unordered_set<std::string_view> names;
  const auto write_section = [&](const std::vector<TensorEncoding>& encodings,
                                 std::string_view section) {
    for (const TensorEncoding& encoding : encodings) {
      const Place place{version, section, source, encoding};
      if (!names.insert(encoding.name).second) {
        place.fail("has one list of entries, and this name in it already");
      }
      list.push_back(write_entry(place, has_tables));
    }
  };
  write_section(document.encodings, "encodings");
  write_section(document.activation_encodings, "activation_encodings");
  write_section(document.param_encodings, "param_encodings");
  root["encodings"] = std::move(list);
  return root;
}

}  // namespace

Json write_2_0_0(const EncodingsDocument& document, const std::string& source) {
  return write(document, source, "2.0.0");
}

Json write_2_1_0(const EncodingsDocument& document, const std::string& source) {
  return write(document, source, "2.1.0");
}

}  // namespace aimet::encodings

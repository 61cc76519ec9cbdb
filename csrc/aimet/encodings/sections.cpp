// Sections, conventions and text layout shared by the file versions.

#include "aimet/encodings/sections.h"

#include "aimet/encodings/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <variant>

namespace aimet::encodings {
namespace {

QuantizerArg read_quantizer_arg(const JsonView& view) {
  const Json& value = view.json();
  if (value.is_boolean()) {
    return value.get<bool>();
  }
  if (value.is_string()) {
    return value.get<std::string>();
  }
  if (value.is_number_float()) {
    return value.get<double>();
  }
  if (value.is_number_integer()) {
    return view.integer(std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  }
  view.fail("must be a string, a number, true or false");
}

bool all_equal(const std::vector<int64_t>& values, int64_t expected) {
  return std::all_of(values.begin(), values.end(),
                     [&](int64_t value) { return value == expected; });
}

}  // namespace

void read_common_sections(const JsonView& root, EncodingsDocument& document) {
  if (const auto producer = root.find("producer")) {
    producer->for_each_member([&](const std::string& key, const JsonView& value) {
      document.producer[key] = value.string();
    });
  }
  if (const auto layers = root.find("excluded_layers")) {
    document.excluded_layers =
        read_list<std::string>(*layers, [](const JsonView& layer) { return layer.string(); });
  }
  if (const auto args = root.find("quantizer_args")) {
    args->for_each_member([&](const std::string& key, const JsonView& value) {
      document.quantizer_args[key] = read_quantizer_arg(value);
    });
  }
}

void write_producer(const EncodingsDocument& document, Json& root) {
  if (!document.producer.empty()) {
    root["producer"] = document.producer;
  }
}

void write_excluded_layers_and_quantizer_args(const EncodingsDocument& document, Json& root) {
  root["excluded_layers"] = document.excluded_layers;
  Json args = Json::object();
  for (const auto& [key, value] : document.quantizer_args) {
    std::visit([&args, &key = key](const auto& held) { args[key] = held; }, value);
  }
  root["quantizer_args"] = std::move(args);
}

int read_int_bitwidth(const JsonView& view) {
  return static_cast<int>(view.integer(kMinBitwidth, kMaxBitwidth));
}

int read_float_bitwidth(const JsonView& view) {
  const int64_t bitwidth = view.integer(1, kMaxBitwidth);
  if (bitwidth != 16 && bitwidth != 32) {
    view.fail(fmt::format("a float encoding has a bitwidth of 16 or 32, got {}", bitwidth));
  }
  return static_cast<int>(bitwidth);
}

double read_zero_point_shift(const JsonView& view) {
  const double shift = view.number();
  if (shift != 0.0 && shift != 0.5) {
    view.fail(fmt::format("must be 0 or 0.5, got {}", shift));
  }
  return shift;
}

void set_grid_from_unsigned(TensorEncoding& encoding, std::vector<int64_t> unsigned_offsets) {
  const int64_t half = half_level_count(encoding.bitwidth);
  encoding.offset = std::move(unsigned_offsets);
  if (encoding.is_symmetric && all_equal(encoding.offset, -half)) {
    encoding.is_signed = true;
  } else if (encoding.is_symmetric && all_equal(encoding.offset, 1 - half)) {
    encoding.is_signed = true;
    encoding.is_strict_symmetric = true;
  }
  if (encoding.is_signed) {
    encoding.offset.assign(encoding.offset.size(), 0);
  }
}

std::vector<int64_t> unsigned_offsets(const TensorEncoding& encoding) {
  std::vector<int64_t> offsets;
  offsets.reserve(encoding.offset.size());
  for (const int64_t offset : encoding.offset) {
    offsets.push_back(unsigned_offset(encoding, offset));
  }
  return offsets;
}

void expect_consistent(const TensorEncoding& encoding, const JsonView& view) {
  const std::string error = find_inconsistency(encoding);
  if (!error.empty()) {
    view.fail(error);
  }
}

std::string to_compact_text(const Json& value) {
  try {
    return value.dump();
  } catch (const Json::exception&) {  // the only one that dump throws: a string is not UTF-8
    throw FormatError(std::string(kDocumentSource), "", "a string is not valid UTF-8");
  }
}

std::string to_text(const Json& root) {
  std::string text = "{";
  std::string_view separator = "\n";
  for (const auto& [key, value] : root.items()) {
    text += fmt::format("{}  {}: ", separator, to_compact_text(Json(key)));
    separator = ",\n";
    // Only the sections of encodings grow with the model; everything else stays on one line.
    if (value.empty() || !key.ends_with("_encodings")) {
      text += to_compact_text(value);
      continue;
    }
    std::string_view line_separator = "\n";
    text += value.is_array() ? '[' : '{';
    for (const auto& [name, encoding] : value.items()) {
      text += line_separator;
      text += "    ";
      if (value.is_object()) {
        text += to_compact_text(Json(name)) + ": ";
      }
      text += to_compact_text(encoding);
      line_separator = ",\n";
    }
    text += value.is_array() ? "\n  ]" : "\n  }";
  }
  return text + "\n}\n";
}

std::string section_path(std::string_view section, const TensorEncoding& encoding) {
  return fmt::format("$.{}{}", section, json_path_step(encoding.name));
}

void expect_integers_of_one_level(const TensorEncoding& encoding, std::string_view version,
                                  std::string_view section, const std::string& source) {
  if (!encoding.float_format.empty()) {
    throw UnsupportedError(source, section_path(section, encoding),
                           fmt::format("version {} has no {} entries; write version 2.0.0", version,
                                       encoding.float_format));
  }
  if (!encoding.per_block_float_scale.empty()) {
    throw UnsupportedError(
        source, section_path(section, encoding),
        fmt::format("version {} has no scales of blocks in floating point; write version 2.1.0",
                    version));
  }
}

void expect_roles(const EncodingsDocument& document, std::string_view version,
                  const std::string& source) {
  if (!document.encodings.empty()) {
    throw UnsupportedError(
        source, section_path("encodings", document.encodings.front()),
        fmt::format("version {} lists parameters apart from activations, and it is not known which "
                    "this is; convert with the model or the names of its parameters at hand",
                    version));
  }
}

}  // namespace aimet::encodings

// The JSON form of an EncodingsDocument in which Python sees it: one shape for all file versions.
//
// {"version": str | null, "producer": {str: str}, "activation_encodings": [E...],
//  "param_encodings": [E...], "excluded_layers": [str...], "quantizer_args": {str: scalar}} and,
//  where a file does not tell parameters from activations, "encodings": [E...]
// E, always:  "name", "dtype": "int" | "float", "bitwidth"
// E, with a scale: "scale": [...], "shape": [...], "block_size": int | null,
//   "channel_axis": int | null; where they apply "block_axis": int, "block_scale_format": str and
//   "per_block_float_scale": [...]
// E, integers with a scale: also "signed", "symmetric", "offset": [...]; where they apply
//   "strict_symmetric": true, "zero_point_shift": 0.5, "decompressed_bitwidth",
//   "per_block_int_scale": [...]
// E, floats with a scale: also "format": str
// E, in the layout by modules: "module_slot": {"kind": "input" | "output", "index": int}

#include "aimet/encodings/json_view.h"
#include "aimet/encodings/sections.h"
#include "aimet/encodings/validate.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

namespace aimet::encodings {
namespace {

constexpr int64_t kLowest = std::numeric_limits<int64_t>::min();
constexpr int64_t kHighest = std::numeric_limits<int64_t>::max();

std::optional<int64_t> read_optional_integer(const JsonView& entry, std::string_view key) {
  const auto view = entry.find(key);
  if (!view || view->is_null()) {
    return std::nullopt;
  }
  return view->integer(kLowest, kHighest);
}

std::vector<int64_t> read_integers(const JsonView& view) {
  return read_list<int64_t>(view,
                            [](const JsonView& value) { return value.integer(kLowest, kHighest); });
}

ModuleSlot read_slot(const JsonView& view) {
  view.expect_keys({"kind", "index"});
  const JsonView kind_view = view.member("kind");
  const std::string kind = kind_view.string();
  if (kind != "input" && kind != "output") {
    kind_view.fail(fmt::format("must be \"input\" or \"output\", got \"{}\"", kind));
  }
  return {kind == "input" ? ModuleSlot::Kind::kInput : ModuleSlot::Kind::kOutput,
          view.member("index").integer(0, kHighest)};
}

void read_grid(const JsonView& entry, TensorEncoding& encoding) {
  encoding.is_signed = entry.member("signed").boolean();
  encoding.is_symmetric = entry.member("symmetric").boolean();
  if (const auto strict = entry.find("strict_symmetric")) {
    encoding.is_strict_symmetric = strict->boolean();
  }
  encoding.offset = read_integers(entry.member("offset"));
  if (const auto shift = entry.find("zero_point_shift")) {
    encoding.zero_point_shift = read_zero_point_shift(*shift);
  }
  if (const auto decompressed = entry.find("decompressed_bitwidth")) {
    encoding.decompressed_bitwidth = read_int_bitwidth(*decompressed);
  }
  if (const auto int_scale = entry.find("per_block_int_scale")) {
    encoding.per_block_int_scale = read_integers(*int_scale);
  }
}

void read_scale(const JsonView& entry, TensorEncoding& encoding) {
  const JsonView scale = entry.member("scale");
  encoding.scale = read_list<double>(scale, [](const JsonView& value) { return value.scale(); });
  if (encoding.scale.empty()) {
    scale.fail("must not be empty");
  }
  encoding.shape = read_integers(entry.member("shape"));
  encoding.block_size = read_optional_integer(entry, "block_size");
  encoding.block_axis = read_optional_integer(entry, "block_axis");
  encoding.channel_axis = read_optional_integer(entry, "channel_axis");
  if (const auto format = entry.find("block_scale_format")) {
    encoding.block_scale_format = format->string();
  }
  if (const auto values = entry.find("per_block_float_scale")) {
    encoding.per_block_float_scale =
        read_list<double>(*values, [](const JsonView& value) { return value.number(); });
  }
}

void read_type(const JsonView& entry, TensorEncoding& encoding) {
  const JsonView dtype_view = entry.member("dtype");
  const std::string dtype = dtype_view.string();
  const JsonView bitwidth = entry.member("bitwidth");
  if (dtype == "int") {
    encoding.bitwidth = read_int_bitwidth(bitwidth);
    return;
  }
  if (dtype != "float") {
    dtype_view.fail(fmt::format("must be \"int\" or \"float\", got \"{}\"", dtype));
  }
  encoding.dtype = DataType::kFloat;
  if (const auto format = entry.find("format")) {
    encoding.float_format = format->string();
    encoding.bitwidth = static_cast<int>(bitwidth.integer(1, kMaxBitwidth));
  } else {
    encoding.bitwidth = read_float_bitwidth(bitwidth);
  }
}

TensorEncoding read_entry(const JsonView& entry) {
  TensorEncoding encoding;
  encoding.name = entry.member("name").string();
  read_type(entry, encoding);
  const auto slot = entry.find("module_slot");
  if (slot) {
    encoding.slot = read_slot(*slot);
  }
  const bool is_int = encoding.dtype == DataType::kInt;
  const size_t head_size = slot ? 4 : 3;
  if (is_int && entry.json().size() > head_size) {
    entry.expect_keys({"name", "dtype", "bitwidth", "module_slot", "signed", "symmetric",
                       "strict_symmetric", "scale", "offset", "shape", "block_size", "block_axis",
                       "channel_axis", "zero_point_shift", "decompressed_bitwidth",
                       "per_block_int_scale", "block_scale_format", "per_block_float_scale"});
    read_grid(entry, encoding);
    read_scale(entry, encoding);
  } else if (!encoding.float_format.empty()) {
    entry.expect_keys({"name", "dtype", "bitwidth", "module_slot", "format", "scale", "shape",
                       "block_size", "block_axis", "channel_axis", "block_scale_format",
                       "per_block_float_scale"});
    read_scale(entry, encoding);
  } else {
    entry.expect_keys({"name", "dtype", "bitwidth", "module_slot"});
  }
  expect_consistent(encoding, entry);
  return encoding;
}

Json optional_json(const std::optional<int64_t>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json write_entry(const TensorEncoding& encoding) {
  Json entry = {{"name", encoding.name},
                {"dtype", encoding.dtype == DataType::kInt ? "int" : "float"},
                {"bitwidth", encoding.bitwidth}};
  if (encoding.slot) {
    const bool is_input = encoding.slot->kind == ModuleSlot::Kind::kInput;
    entry["module_slot"] = {{"kind", is_input ? "input" : "output"},
                            {"index", encoding.slot->index}};
  }
  if (!encoding.has_scale()) {
    return entry;
  }
  if (encoding.dtype == DataType::kFloat) {
    entry["format"] = encoding.float_format;
  } else {
    entry["signed"] = encoding.is_signed;
    entry["symmetric"] = encoding.is_symmetric;
    if (encoding.is_strict_symmetric) {
      entry["strict_symmetric"] = true;
    }
  }
  entry["scale"] = encoding.scale;
  if (encoding.dtype == DataType::kInt) {
    entry["offset"] = encoding.offset;
  }
  entry["shape"] = encoding.shape;
  entry["block_size"] = optional_json(encoding.block_size);
  if (encoding.block_axis) {
    entry["block_axis"] = *encoding.block_axis;
  }
  entry["channel_axis"] = optional_json(encoding.channel_axis);
  if (encoding.zero_point_shift != 0.0) {
    entry["zero_point_shift"] = encoding.zero_point_shift;
  }
  if (encoding.is_lpbq()) {
    entry["decompressed_bitwidth"] = *encoding.decompressed_bitwidth;
    entry["per_block_int_scale"] = encoding.per_block_int_scale;
  }
  if (!encoding.per_block_float_scale.empty()) {
    entry["block_scale_format"] = encoding.block_scale_format;
    entry["per_block_float_scale"] = encoding.per_block_float_scale;
  }
  return entry;
}

Json write_section(const std::vector<TensorEncoding>& encodings) {
  Json list = Json::array();
  for (const TensorEncoding& encoding : encodings) {
    list.push_back(write_entry(encoding));
  }
  return list;
}

}  // namespace

std::string to_neutral_json(const EncodingsDocument& document) {
  validate(document, std::string(kDocumentSource));
  Json root = Json::object();
  root["version"] = document.version.empty() ? Json(nullptr) : Json(document.version);
  root["producer"] = document.producer;
  root["activation_encodings"] = write_section(document.activation_encodings);
  root["param_encodings"] = write_section(document.param_encodings);
  if (!document.encodings.empty()) {
    root["encodings"] = write_section(document.encodings);
  }
  write_excluded_layers_and_quantizer_args(document, root);
  return to_compact_text(root);
}

EncodingsDocument from_neutral_json(std::string_view text, const Limits& limits) {
  const std::string source(kDocumentSource);
  const Json tree = parse_json(text, source, limits);
  const JsonView root(tree, source);
  root.expect_keys({"version", "producer", "activation_encodings", "param_encodings", "encodings",
                    "excluded_layers", "quantizer_args"});
  EncodingsDocument document;
  const auto version = root.find("version");
  if (version && !version->is_null()) {
    document.version = version->string();
  }
  document.activation_encodings =
      read_list<TensorEncoding>(root.member("activation_encodings"), read_entry);
  document.param_encodings = read_list<TensorEncoding>(root.member("param_encodings"), read_entry);
  if (const auto section = root.find("encodings")) {
    document.encodings = read_list<TensorEncoding>(*section, read_entry);
  }
  read_common_sections(root, document);
  validate(document, source);
  return document;
}

}  // namespace aimet::encodings

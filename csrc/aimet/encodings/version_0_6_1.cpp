// Files of versions 0.4.0, 0.5.0 and 0.6.1, and those without a version: an object from tensor
// name to a list of encodings, one per channel. Also the layout of `_torch.encodings`, in which
// activations are filed under the inputs and outputs of modules.

#include "aimet/encodings/format.h"
#include "aimet/encodings/sections.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

namespace aimet::encodings {
namespace {

// `min` and `max` repeat what scale and offset say, but some writers store them before they are
// moved to the grid, which moves them by half a step at most.
constexpr double kRangeToleranceSteps = 0.501;

constexpr std::string_view kInput = "input";
constexpr std::string_view kOutput = "output";

double step_count(const TensorEncoding& encoding) {
  return static_cast<double>(level_count(encoding.bitwidth) -
                             (encoding.is_strict_symmetric ? 2 : 1));
}

// Offset of the unsigned grid whose level 0 is the lowest level in use.
int64_t file_offset(const TensorEncoding& encoding, size_t index) {
  return unsigned_offset(encoding, encoding.offset[index]) + (encoding.is_strict_symmetric ? 1 : 0);
}

double range_min(const TensorEncoding& encoding, size_t index) {
  return (static_cast<double>(file_offset(encoding, index)) + encoding.zero_point_shift) *
         encoding.scale[index];
}

double range_max(const TensorEncoding& encoding, size_t index) {
  return (static_cast<double>(file_offset(encoding, index)) + step_count(encoding) +
          encoding.zero_point_shift) *
         encoding.scale[index];
}

void expect_range_end(const JsonView& entry, std::string_view key, double expected, double scale) {
  const JsonView view = entry.member(key);
  const double value = view.number();
  if (!(std::fabs(value - expected) <= kRangeToleranceSteps * scale)) {
    view.fail(
        fmt::format("disagrees with `scale` and `offset`, which give {}, got {}", expected, value));
  }
}

bool read_symmetry(const JsonView& view) {
  if (view.json().is_boolean()) {  // some writers use JSON's own booleans
    return view.boolean();
  }
  const std::string text = view.string();
  if (text != "True" && text != "False") {
    view.fail(fmt::format("must be \"True\" or \"False\", got \"{}\"", text));
  }
  return text == "True";
}

// What a tensor's list of entries has in common.
struct EntryHead {
  DataType dtype = DataType::kInt;
  int bitwidth = 0;
  bool has_grid = false;
  bool is_symmetric = false;
  double zero_point_shift = 0.0;

  bool operator==(const EntryHead&) const = default;
};

EntryHead read_head(const JsonView& entry, bool is_dtype_required) {
  entry.expect_keys(
      {"bitwidth", "dtype", "is_symmetric", "min", "max", "scale", "offset", "zero_point_shift"});
  EntryHead head;
  if (is_dtype_required || entry.find("dtype")) {
    const JsonView dtype = entry.member("dtype");
    const std::string name = dtype.string();
    if (name != "int" && name != "float") {
      dtype.fail(fmt::format("must be \"int\" or \"float\", got \"{}\"", name));
    }
    head.dtype = name == "int" ? DataType::kInt : DataType::kFloat;
  }
  const JsonView bitwidth = entry.member("bitwidth");
  if (head.dtype == DataType::kFloat) {
    entry.expect_keys({"bitwidth", "dtype"});
    head.bitwidth = read_float_bitwidth(bitwidth);
    return head;
  }
  head.bitwidth = read_int_bitwidth(bitwidth);
  // Entries of bitwidth and dtype alone stand for tensors inside of an op that was not observed.
  head.has_grid = entry.json().size() > (entry.find("dtype") ? 2U : 1U);
  if (head.has_grid) {
    head.is_symmetric = read_symmetry(entry.member("is_symmetric"));
    if (const auto shift = entry.find("zero_point_shift")) {
      head.zero_point_shift = read_zero_point_shift(*shift);
    }
  }
  return head;
}

TensorEncoding read_entries(const std::vector<JsonView>& entries, std::string name,
                            bool is_dtype_required) {
  const EntryHead head = read_head(entries.front(), is_dtype_required);
  TensorEncoding encoding;
  encoding.name = std::move(name);
  encoding.dtype = head.dtype;
  encoding.bitwidth = head.bitwidth;
  encoding.is_symmetric = head.is_symmetric;
  encoding.zero_point_shift = head.zero_point_shift;
  std::vector<int64_t> offsets;
  for (const JsonView& entry : entries) {
    if (read_head(entry, is_dtype_required) != head) {
      entry.fail(
          "differs from the first entry of the tensor in more than min, max, scale and "
          "offset");
    }
    if (head.has_grid) {
      encoding.scale.push_back(entry.member("scale").scale());
      offsets.push_back(entry.member("offset").integral_number(1 - level_count(head.bitwidth), 0));
    } else if (entries.size() > 1) {
      entry.fail("an entry without `scale` must be the tensor's only one");
    }
  }
  if (!head.has_grid) {
    return encoding;
  }
  set_grid_from_unsigned(encoding, std::move(offsets));
  if (entries.size() > 1) {
    encoding.shape = {static_cast<int64_t>(entries.size())};
  }
  for (size_t index = 0; index < entries.size(); ++index) {
    const double scale = encoding.scale[index];
    expect_range_end(entries[index], "min", range_min(encoding, index), scale);
    expect_range_end(entries[index], "max", range_max(encoding, index), scale);
  }
  return encoding;
}

// `view` is a list of entries, or a single entry as in the layout by modules.
TensorEncoding read_tensor(const JsonView& view, const std::string& name, bool is_dtype_required,
                           const std::optional<ModuleSlot>& slot = std::nullopt) {
  std::vector<JsonView> entries;
  if (view.is_object()) {
    entries.push_back(view);
  } else {
    view.for_each_element([&](const JsonView& entry) { entries.push_back(entry); });
  }
  if (entries.empty()) {
    view.fail("must hold at least one encoding");
  }
  TensorEncoding encoding = read_entries(entries, name, is_dtype_required);
  encoding.slot = slot;
  expect_consistent(encoding, view);
  return encoding;
}

void read_module(const JsonView& module, const std::string& name, bool is_dtype_required,
                 EncodingsDocument& document) {
  module.expect_keys({kInput, kOutput});
  module.for_each_member([&](const std::string& kind, const JsonView& slots) {
    slots.for_each_member([&](const std::string& index_text, const JsonView& view) {
      ModuleSlot slot;
      slot.kind = kind == kInput ? ModuleSlot::Kind::kInput : ModuleSlot::Kind::kOutput;
      const char* end = index_text.data() + index_text.size();
      const auto [last, error] = std::from_chars(index_text.data(), end, slot.index);
      // "01" and "1" would be two keys for one slot.
      if (error != std::errc() || last != end || std::to_string(slot.index) != index_text ||
          slot.index < 0) {
        view.fail("the key of a module's input or output must be its index, such as \"0\"");
      }
      document.activation_encodings.push_back(read_tensor(view, name, is_dtype_required, slot));
    });
  });
}

void read_0_x(const JsonView& root, EncodingsDocument& document, bool is_dtype_required) {
  root.expect_keys({"version", "producer", "activation_encodings", "param_encodings",
                    "excluded_layers", "quantizer_args"});
  const auto activations = root.find("activation_encodings");
  const auto params = root.find("param_encodings");
  if (!activations && !params) {
    root.fail("has neither `activation_encodings` nor `param_encodings`");
  }
  if (activations) {
    activations->for_each_member([&](const std::string& name, const JsonView& view) {
      if (view.is_object()) {
        read_module(view, name, is_dtype_required, document);
      } else {
        document.activation_encodings.push_back(read_tensor(view, name, is_dtype_required));
      }
    });
  }
  if (params) {
    params->for_each_member([&](const std::string& name, const JsonView& view) {
      view.expect_array();
      document.param_encodings.push_back(read_tensor(view, name, is_dtype_required));
    });
  }
  read_common_sections(root, document);
}

Json write_entries(const TensorEncoding& encoding, std::string_view section,
                   const std::string& source) {
  if (encoding.is_lpbq()) {
    throw UnsupportedError(source, section_path(section, encoding),
                           "version 0.6.1 cannot express LPBQ encodings; write version 1.0.0");
  }
  expect_integers_of_one_level(encoding, "0.6.1", section, source);
  Json head = {{"bitwidth", encoding.bitwidth},
               {"dtype", encoding.dtype == DataType::kInt ? "int" : "float"}};
  Json entries = Json::array();
  if (!encoding.has_grid()) {
    entries.push_back(std::move(head));
    return entries;
  }
  for (size_t index = 0; index < encoding.scale.size(); ++index) {
    Json entry = head;
    entry["is_symmetric"] = encoding.is_symmetric ? "True" : "False";
    entry["min"] = range_min(encoding, index);
    entry["max"] = range_max(encoding, index);
    entry["scale"] = encoding.scale[index];
    entry["offset"] = file_offset(encoding, index);
    if (encoding.zero_point_shift != 0.0) {
      entry["zero_point_shift"] = encoding.zero_point_shift;
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

Json write_activations(const EncodingsDocument& document, const std::string& source) {
  constexpr std::string_view kSection = "activation_encodings";
  Json section = Json::object();
  for (const TensorEncoding& encoding : document.activation_encodings) {
    if (encoding.slot.has_value() != document.activation_encodings.front().slot.has_value()) {
      throw UnsupportedError(source, section_path(kSection, encoding),
                             "a file names either tensors or inputs and outputs of modules, not "
                             "both");
    }
    Json entries = write_entries(encoding, kSection, source);
    if (!encoding.slot) {
      append_member(section, encoding.name, std::move(entries));
      continue;
    }
    const bool is_input = encoding.slot->kind == ModuleSlot::Kind::kInput;
    section[encoding.name][std::string(is_input ? kInput : kOutput)]
           [std::to_string(encoding.slot->index)] =
               entries.size() == 1 ? std::move(entries.front()) : std::move(entries);
  }
  return section;
}

Json write_params(const EncodingsDocument& document, const std::string& source) {
  Json section = Json::object();
  for (const TensorEncoding& encoding : document.param_encodings) {
    if (encoding.slot) {
      throw UnsupportedError(source, section_path("param_encodings", encoding),
                             "a parameter is no input or output of a module");
    }
    append_member(section, encoding.name, write_entries(encoding, "param_encodings", source));
  }
  return section;
}

}  // namespace

void read_0_4_0(const JsonView& root, EncodingsDocument& document) {
  read_0_x(root, document, /*is_dtype_required=*/false);
}

void read_0_6_1(const JsonView& root, EncodingsDocument& document) {
  read_0_x(root, document, /*is_dtype_required=*/true);
}

Json write_0_6_1(const EncodingsDocument& document, const std::string& source) {
  expect_roles(document, "0.6.1", source);
  Json root = {{"version", "0.6.1"}};
  write_producer(document, root);
  root["activation_encodings"] = write_activations(document, source);
  root["param_encodings"] = write_params(document, source);
  write_excluded_layers_and_quantizer_args(document, root);
  return root;
}

Json write_unversioned(const EncodingsDocument& document, const std::string& source) {
  expect_roles(document, "0.6.1", source);
  Json root = Json::object();
  if (!document.activation_encodings.empty()) {
    root["activation_encodings"] = write_activations(document, source);
  }
  if (!document.param_encodings.empty() || root.empty()) {
    root["param_encodings"] = write_params(document, source);
  }
  return root;
}

}  // namespace aimet::encodings

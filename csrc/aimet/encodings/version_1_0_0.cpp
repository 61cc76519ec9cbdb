// Files of version 1.0.0: lists of flat objects, one per tensor, with explicit granularity. The
// channel axis (output channels) and block axis (input channels) are implied by the format and
// the shapes of scales are not stored, so that reading gives {count}, or {channels, blocks} for
// LPBQ.

#include "aimet/encodings/format.h"
#include "aimet/encodings/sections.h"
#include "aimet/encodings/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace aimet::encodings {
namespace {

constexpr std::string_view kPerTensor = "PER_TENSOR";
constexpr std::string_view kPerChannel = "PER_CHANNEL";
constexpr std::string_view kPerBlock = "PER_BLOCK";
constexpr std::string_view kLpbq = "LPBQ";

// Types of the format's fields: offset int32, block_size uint32, per_block_int_scale uint16.
constexpr int64_t kMaxBlockSize = std::numeric_limits<uint32_t>::max();
constexpr int64_t kMaxIntScale = std::numeric_limits<uint16_t>::max();

std::string read_enc_type(const JsonView& entry) {
  const JsonView view = entry.member("enc_type");
  const std::string enc_type = view.string();
  if (enc_type == "VECTOR") {
    view.fail_unsupported("vector quantization (GPTVQ codebooks) is not supported");
  }
  if (enc_type != kPerTensor && enc_type != kPerChannel && enc_type != kPerBlock &&
      enc_type != kLpbq) {
    view.fail(
        fmt::format("must be PER_TENSOR, PER_CHANNEL, PER_BLOCK or LPBQ, got \"{}\"", enc_type));
  }
  return enc_type;
}

double read_shift(const JsonView& entry) {
  const auto list = entry.find("zero_point_shift");
  if (!list) {
    return 0.0;
  }
  const std::vector<double> shifts = read_list<double>(*list, read_zero_point_shift);
  for (const double shift : shifts) {
    if (shift != shifts.front()) {
      list->fail("must hold one value repeated");
    }
  }
  const size_t scale_count = entry.member("scale").json().size();
  if (shifts.size() != scale_count) {
    list->fail(fmt::format("{} values, but {} of `scale`", shifts.size(), scale_count));
  }
  return shifts.front();
}

void read_lpbq(const JsonView& entry, TensorEncoding& encoding) {
  encoding.decompressed_bitwidth = encoding.bitwidth;
  encoding.bitwidth = read_int_bitwidth(entry.member("compressed_bw"));
  // The channel grid is the signed symmetric one of the decompressed bitwidth.
  encoding.is_signed = true;
  encoding.offset.assign(encoding.scale.size(), 0);
  encoding.per_block_int_scale =
      read_list<int64_t>(entry.member("per_block_int_scale"),
                         [](const JsonView& value) { return value.integer(1, kMaxIntScale); });
  const auto channel_count = static_cast<int64_t>(encoding.scale.size());
  encoding.shape = {channel_count,
                    static_cast<int64_t>(encoding.per_block_int_scale.size()) / channel_count};
}

void read_grid(const JsonView& entry, std::string_view enc_type, TensorEncoding& encoding) {
  encoding.is_symmetric = entry.member("is_sym").boolean();
  encoding.scale =
      read_list<double>(entry.member("scale"), [](const JsonView& value) { return value.scale(); });
  const JsonView offset_list = entry.member("offset");
  const int64_t lowest = 1 - level_count(encoding.bitwidth);
  std::vector<int64_t> offsets = read_list<int64_t>(
      offset_list, [&](const JsonView& value) { return value.integer(lowest, 0); });
  if (encoding.scale.empty()) {
    entry.member("scale").fail("must not be empty");
  }
  if (offsets.size() != encoding.scale.size()) {
    offset_list.fail(
        fmt::format("{} values, but {} of `scale`", offsets.size(), encoding.scale.size()));
  }
  encoding.zero_point_shift = read_shift(entry);
  if (enc_type == kPerBlock || enc_type == kLpbq) {
    encoding.block_size = entry.member("block_size").integer(1, kMaxBlockSize);
  }
  if (enc_type == kLpbq) {
    const int64_t expected = -half_level_count(encoding.bitwidth);
    for (const int64_t offset : offsets) {
      if (offset != expected) {
        offset_list.fail(fmt::format("must be {} for LPBQ with bw {}, got {}", expected,
                                     encoding.bitwidth, offset));
      }
    }
    read_lpbq(entry, encoding);
    return;
  }
  set_grid_from_unsigned(encoding, std::move(offsets));
  if (enc_type != kPerTensor) {
    encoding.shape = {static_cast<int64_t>(encoding.scale.size())};
  }
}

TensorEncoding read_entry(const JsonView& entry) {
  TensorEncoding encoding;
  encoding.name = entry.member("name").string();
  const std::string enc_type = read_enc_type(entry);
  if (enc_type == kLpbq) {
    entry.expect_keys({"name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset",
                       "zero_point_shift", "block_size", "compressed_bw", "per_block_int_scale"});
  } else if (enc_type == kPerBlock) {
    entry.expect_keys({"name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset",
                       "zero_point_shift", "block_size"});
  } else {
    entry.expect_keys(
        {"name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset", "zero_point_shift"});
  }
  const JsonView dtype_view = entry.member("dtype");
  const std::string dtype = dtype_view.string();
  const JsonView bitwidth = entry.member("bw");
  if (dtype == "FLOAT") {
    if (enc_type != kPerTensor || entry.json().size() != 4) {
      entry.fail(
          "a FLOAT entry has enc_type PER_TENSOR and no keys besides name, enc_type, dtype "
          "and bw");
    }
    encoding.dtype = DataType::kFloat;
    encoding.bitwidth = read_float_bitwidth(bitwidth);
  } else if (dtype == "INT") {
    encoding.bitwidth = read_int_bitwidth(bitwidth);
    // Without a grid: a bitwidth for a tensor that was not calibrated.
    if (enc_type != kPerTensor || entry.json().size() != 4) {
      read_grid(entry, enc_type, encoding);
    }
  } else {
    dtype_view.fail(fmt::format("must be \"INT\" or \"FLOAT\", got \"{}\"", dtype));
  }
  if (enc_type == kPerTensor && encoding.scale.size() > 1) {
    entry.member("scale").fail(
        fmt::format("PER_TENSOR has one value, got {}", encoding.scale.size()));
  }
  expect_consistent(encoding, entry);
  return encoding;
}

std::string_view enc_type_of(const TensorEncoding& encoding) {
  if (encoding.is_lpbq()) {
    return kLpbq;
  }
  if (encoding.block_size) {
    return kPerBlock;
  }
  return encoding.shape.empty() ? kPerTensor : kPerChannel;
}

void write_grid(const TensorEncoding& encoding, std::string_view section, const std::string& source,
                Json& entry) {
  entry["is_sym"] = encoding.is_symmetric;
  entry["scale"] = encoding.scale;
  if (encoding.is_lpbq()) {
    entry["bw"] = *encoding.decompressed_bitwidth;
    entry["compressed_bw"] = encoding.bitwidth;
    entry["offset"] = std::vector<int64_t>(encoding.scale.size(),
                                           -half_level_count(*encoding.decompressed_bitwidth));
    entry["per_block_int_scale"] = encoding.per_block_int_scale;
  } else {
    entry["offset"] = unsigned_offsets(encoding);
  }
  for (const Json& offset : entry["offset"]) {
    if (offset.get<int64_t>() < std::numeric_limits<int32_t>::min()) {
      throw UnsupportedError(
          source, section_path(section, encoding),
          fmt::format("version 1.0.0 holds offsets of 32 bits, got {}", offset.get<int64_t>()));
    }
  }
  if (encoding.block_size.value_or(1) > kMaxBlockSize ||
      std::any_of(encoding.per_block_int_scale.begin(), encoding.per_block_int_scale.end(),
                  [](int64_t value) { return value > kMaxIntScale; })) {
    throw UnsupportedError(source, section_path(section, encoding),
                           fmt::format("version 1.0.0 holds `block_size` up to {} and "
                                       "`per_block_int_scale` up to {}",
                                       kMaxBlockSize, kMaxIntScale));
  }
  if (encoding.block_size) {
    entry["block_size"] = *encoding.block_size;
  }
  if (encoding.zero_point_shift != 0.0) {
    entry["zero_point_shift"] =
        std::vector<double>(encoding.scale.size(), encoding.zero_point_shift);
  }
}

Json write_section(const std::vector<TensorEncoding>& encodings, std::string_view section,
                   const std::string& source) {
  Json list = Json::array();
  for (const TensorEncoding& encoding : encodings) {
    if (encoding.slot) {
      throw UnsupportedError(source, section_path(section, encoding),
                             "version 1.0.0 names tensors, not inputs and outputs of modules; "
                             "write version 0.6.1");
    }
    expect_integers_of_one_level(encoding, "1.0.0", section, source);
    if (encoding.is_strict_symmetric) {
      throw UnsupportedError(source, section_path(section, encoding),
                             "version 1.0.0 has no grid without its lowest level "
                             "(`strict_symmetric`); write version 0.6.1");
    }
    Json entry = {{"name", encoding.name},
                  {"enc_type", enc_type_of(encoding)},
                  {"dtype", encoding.dtype == DataType::kInt ? "INT" : "FLOAT"},
                  {"bw", encoding.bitwidth}};
    if (encoding.has_grid()) {
      write_grid(encoding, section, source, entry);
    }
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

void read_1_0_0(const JsonView& root, EncodingsDocument& document) {
  // AIMET 2.x stamps its `_torch.encodings`, entries of 0.6.1, with the version of the file beside
  // it.
  for (const char* section : {"activation_encodings", "param_encodings"}) {
    const auto encodings = root.find(section);
    if (encodings && encodings->is_object()) {
      read_0_6_1(root, document);
      return;
    }
  }
  root.expect_keys({"version", "producer", "activation_encodings", "param_encodings",
                    "excluded_layers", "quantizer_args"});
  document.activation_encodings =
      read_list<TensorEncoding>(root.member("activation_encodings"), read_entry);
  document.param_encodings = read_list<TensorEncoding>(root.member("param_encodings"), read_entry);
  read_common_sections(root, document);
}

Json write_1_0_0(const EncodingsDocument& document, const std::string& source) {
  expect_roles(document, "1.0.0", source);
  Json root = {{"version", "1.0.0"}};
  write_producer(document, root);
  root["activation_encodings"] =
      write_section(document.activation_encodings, "activation_encodings", source);
  root["param_encodings"] = write_section(document.param_encodings, "param_encodings", source);
  write_excluded_layers_and_quantizer_args(document, root);
  return root;
}

}  // namespace aimet::encodings

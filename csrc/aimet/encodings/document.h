// What an encodings file says, independent of its version: the structs that readers fill and
// writers consume. No JSON here (see encodings.h for text, neutral.cpp for the JSON form that
// Python sees).
//
// Convention: real = (q + offset + zero_point_shift) * scale, with q on the signed grid
// [-2^(b-1), 2^(b-1) - 1] when `is_signed`, on [0, 2^b - 1] otherwise; for floating-point formats
// real = number * scale. Files of version 0.x and 1.0.0 hold offsets of the unsigned grid, files of
// version 2.x zero points (-offset); readers and writers convert.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace aimet::encodings {

enum class DataType { kInt, kFloat };

// Where an activation sits when a file names modules instead of tensors (the `_torch.encodings`
// layout): input or output number `index` of the module `TensorEncoding::name`.
struct ModuleSlot {
  enum class Kind { kInput, kOutput };
  Kind kind = Kind::kInput;
  int64_t index = 0;

  bool operator==(const ModuleSlot&) const = default;
};

// The encoding of one tensor. Four forms, told apart by `dtype` and `has_scale()`:
//   kInt with a scale      scale, offset and shape are filled;
//   kInt without a scale   only name, dtype and bitwidth mean anything: a bitwidth for a tensor
//   that
//                          was not calibrated;
//   kFloat with a scale    float_format, scale and shape are filled (8-bit and 4-bit floats);
//   kFloat without         only name, dtype and bitwidth (16 or 32) mean anything.
struct TensorEncoding {
  std::string name;
  DataType dtype = DataType::kInt;
  int bitwidth = 8;  // bits of the stored numbers; for LPBQ those of the compressed integers
  // ONNX's name of a scaled floating-point format, such as "float8e4m3fn"; "" for all others.
  std::string float_format;
  bool is_signed = false;
  bool is_symmetric = false;
  bool is_strict_symmetric = false;  // signed grid without its lowest level -2^(b-1)

  // Row-major over `shape`: one value for shape {}, one per channel or per block otherwise.
  // Exception: with scales of two levels (below) one per channel, while `shape` is that of the
  // blocks.
  std::vector<double> scale;
  std::vector<int64_t> offset;  // as many as `scale`; none for floating-point formats
  // Right-aligned to the tensor's, or {n}, the count alone: beside a `channel_axis`, or where the
  // file tells no axis.
  std::vector<int64_t> shape;
  double zero_point_shift = 0.0;  // 0 or 0.5

  std::optional<int64_t> block_size;    // elements that share a scale on the block axis
  std::optional<int64_t> block_axis;    // of `shape`; unknown after reading 0.x and 1.0.0
  std::optional<int64_t> channel_axis;  // of the tensor; likewise; negative: counted from the end

  // LPBQ (low power blockwise quantization), scales of two levels: the scale of a block is
  // per_block_int_scale * scale of its channel, which makes the blocks' grids subsets of one
  // channel grid of `decompressed_bitwidth` bits.
  std::optional<int> decompressed_bitwidth;
  std::vector<int64_t> per_block_int_scale;
  // Likewise with small floats instead of integers (NVFP4: "float8e4m3fn"):
  // per_block_float_scale * scale of the channel, or of the tensor.
  std::string block_scale_format;
  std::vector<double> per_block_float_scale;

  std::optional<ModuleSlot> slot;

  bool has_scale() const { return !scale.empty(); }
  bool has_grid() const { return dtype == DataType::kInt && has_scale(); }
  bool is_lpbq() const { return decompressed_bitwidth.has_value(); }
  bool has_two_levels() const { return is_lpbq() || !per_block_float_scale.empty(); }
  bool operator==(const TensorEncoding&) const = default;
};

using QuantizerArg = std::variant<bool, int64_t, double, std::string>;

struct EncodingsDocument {
  std::string version;  // "" for files without one (AdaRound's parameter encodings)
  std::map<std::string, std::string> producer;  // "package", "version"
  std::vector<TensorEncoding> activation_encodings;
  std::vector<TensorEncoding> param_encodings;
  // Of files that do not tell parameters from activations: versions 2.x. Writers of those versions
  // list all three sections.
  std::vector<TensorEncoding> encodings;
  std::vector<std::string> excluded_layers;
  std::map<std::string, QuantizerArg> quantizer_args;

  bool operator==(const EncodingsDocument&) const = default;
};

// Limits of a grid of `bitwidth` bits without sign, as they appear in files.
inline int64_t level_count(int bitwidth) {
  return int64_t{1} << bitwidth;
}
inline int64_t half_level_count(int bitwidth) {
  return int64_t{1} << (bitwidth - 1);
}

// Offset of an encoding's element on the unsigned grid, the convention of the files.
inline int64_t unsigned_offset(const TensorEncoding& encoding, int64_t offset) {
  return encoding.is_signed ? offset - half_level_count(encoding.bitwidth) : offset;
}

}  // namespace aimet::encodings

// What an encodings file says, independent of its version: the structs that readers fill and
// writers consume. No JSON here (see encodings.h for text, neutral.cpp for the JSON form that
// Python sees).
//
// Convention: real = (q + offset + zero_point_shift) * scale, with q on the signed grid
// [-2^(b-1), 2^(b-1) - 1] when `is_signed`, on [0, 2^b - 1] otherwise. Files of version 0.x and
// 1.0.0 hold offsets of the unsigned grid; readers and writers convert.

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

// The encoding of one tensor. Three forms, told apart by `dtype` and `has_grid()`:
//   kFloat               only name, dtype and bitwidth (16 or 32) mean anything;
//   kInt without a grid  likewise: a bitwidth request for a tensor that was not calibrated;
//   kInt with a grid     scale, offset and shape are filled.
struct TensorEncoding {
  std::string name;
  DataType dtype = DataType::kInt;
  int bitwidth = 8;  // bits of the stored integers; for LPBQ those of the compressed integers
  bool is_signed = false;
  bool is_symmetric = false;
  bool is_strict_symmetric = false;  // signed grid without its lowest level -2^(b-1)

  // Row-major over `shape`: one value for shape {}, one per channel or per block otherwise.
  // Exception LPBQ: one per channel, while `shape` is that of `per_block_int_scale`.
  std::vector<double> scale;
  std::vector<int64_t> offset;    // as many as `scale`
  std::vector<int64_t> shape;     // right-aligned to the tensor's; {n} when the file tells no axis
  double zero_point_shift = 0.0;  // 0 or 0.5

  std::optional<int64_t> block_size;    // elements that share a scale on the block axis
  std::optional<int64_t> channel_axis;  // of the tensor; unknown after reading 0.x and 1.0.0

  // LPBQ (low power blockwise quantization): the scale of a block is
  // per_block_int_scale * scale of its channel, which makes the blocks' grids subsets of one
  // channel grid of `decompressed_bitwidth` bits.
  std::optional<int> decompressed_bitwidth;
  std::vector<int64_t> per_block_int_scale;

  std::optional<ModuleSlot> slot;

  bool has_grid() const { return dtype == DataType::kInt && !scale.empty(); }
  bool is_lpbq() const { return decompressed_bitwidth.has_value(); }
  bool operator==(const TensorEncoding&) const = default;
};

using QuantizerArg = std::variant<bool, int64_t, double, std::string>;

struct EncodingsDocument {
  std::string version;  // "" for files without one (AdaRound's parameter encodings)
  std::map<std::string, std::string> producer;  // "package", "version"
  std::vector<TensorEncoding> activation_encodings;
  std::vector<TensorEncoding> param_encodings;
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

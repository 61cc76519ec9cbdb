// Where two documents differ in what they mean, whatever versions they come from.

#include "aimet/encodings/encodings.h"
#include "aimet/encodings/sections.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

namespace aimet::encodings {
namespace {

enum class Role { kActivation, kParam, kUnknown };

struct Entry {
  const TensorEncoding* encoding;
  Role role;
  bool has_symmetry;  // whether the version tells it
};

// Entries by key, and the keys in the order of the document.
struct Index {
  std::unordered_map<std::string, Entry> entries;
  std::vector<std::string> keys;
};

Index index_of(const EncodingsDocument& document) {
  Index index;
  const bool has_symmetry = !is_version_2(document.version);
  const auto add = [&](const std::vector<TensorEncoding>& section, Role role) {
    for (const TensorEncoding& encoding : section) {
      std::string key = entry_key(encoding);
      if (index.entries.emplace(key, Entry{&encoding, role, has_symmetry}).second) {
        index.keys.push_back(std::move(key));
      }
    }
  };
  add(document.encodings, Role::kUnknown);
  add(document.activation_encodings, Role::kActivation);
  add(document.param_encodings, Role::kParam);
  return index;
}

std::string type_of(const TensorEncoding& encoding) {
  return !encoding.float_format.empty()     ? encoding.float_format
         : encoding.dtype == DataType::kInt ? fmt::format("integers of {} bits", encoding.bitwidth)
                                            : fmt::format("floats of {} bits", encoding.bitwidth);
}

// Numbers that differ: the pair that differs most, and how many others there are.
struct Worst {
  size_t index = 0;
  size_t count = 0;
  double ratio = 0.0;
};

template <typename T, typename Distance>
Worst worst_of(const std::vector<T>& left, const std::vector<T>& right, const Distance& distance) {
  Worst worst;
  for (size_t index = 0; index < left.size(); ++index) {
    const double ratio = distance(left[index], right[index]);
    if (ratio > 0.0) {
      ++worst.count;
      if (ratio > worst.ratio) {
        worst.ratio = ratio;
        worst.index = index;
      }
    }
  }
  return worst;
}

class Comparison {
 public:
  Comparison(const std::string& key, const Entry& left, const Entry& right, double tolerance,
             std::vector<Difference>& found)
      : key_(key), left_(left), right_(right), tolerance_(tolerance), found_(found) {}

  void run() {
    const TensorEncoding& left = *left_.encoding;
    const TensorEncoding& right = *right_.encoding;
    compare("type", type_of(left), type_of(right));
    compare("granularity", granularity_of(left), granularity_of(right));
    if (left_.role != Role::kUnknown && right_.role != Role::kUnknown) {
      compare("role", role_name(left_.role), role_name(right_.role));
    }
    if (!left.has_scale() || !right.has_scale() || is_different_) {
      return;
    }
    compare_optional("block_size", left.block_size, right.block_size);
    compare_axes(left, right);
    compare("zero_point_shift", fmt::to_string(left.zero_point_shift),
            fmt::to_string(right.zero_point_shift));
    compare("strict_symmetric", fmt::to_string(left.is_strict_symmetric),
            fmt::to_string(right.is_strict_symmetric));
    if (left_.has_symmetry && right_.has_symmetry) {
      compare("symmetric", fmt::to_string(left.is_symmetric), fmt::to_string(right.is_symmetric));
    }
    if (left.is_lpbq() && right.is_lpbq()) {
      compare("decompressed_bitwidth", fmt::to_string(*left.decompressed_bitwidth),
              fmt::to_string(*right.decompressed_bitwidth));
    }
    compare("block_scale_format", left.block_scale_format, right.block_scale_format);
    compare_numbers("scale", left.scale, right.scale, tolerance_);
    compare_numbers("offset", unsigned_offsets(left), unsigned_offsets(right), 0.0);
    compare_numbers("per_block_int_scale", left.per_block_int_scale, right.per_block_int_scale,
                    0.0);
    compare_numbers("per_block_float_scale", left.per_block_float_scale,
                    right.per_block_float_scale, tolerance_);
  }

 private:
  static std::string role_name(Role role) {
    return role == Role::kParam ? "parameter" : "activation";
  }

  void add(std::string field, std::string left, std::string right) {
    is_different_ = true;
    found_.push_back({key_, std::move(field), std::move(left), std::move(right)});
  }

  void compare(std::string_view field, const std::string& left, const std::string& right) {
    if (left != right) {
      add(std::string(field), left, right);
    }
  }

  void compare_optional(std::string_view field, const std::optional<int64_t>& left,
                        const std::optional<int64_t>& right) {
    const auto text = [](const std::optional<int64_t>& value) {
      return value ? fmt::to_string(*value) : "none";
    };
    compare(field, text(left), text(right));
  }

  // An axis that is not known, or counted from the other end, cannot be told to be another one.
  void compare_axes(const TensorEncoding& left, const TensorEncoding& right) {
    const auto compare_axis = [&](std::string_view field, const std::optional<int64_t>& a,
                                  const std::optional<int64_t>& b) {
      if (a && b && (*a < 0) == (*b < 0)) {
        compare_optional(field, a, b);
      }
    };
    compare_axis("channel_axis", left.channel_axis, right.channel_axis);
    compare_axis("block_axis", left.block_axis, right.block_axis);
    if (left.block_axis && right.block_axis) {
      compare("shape", fmt::format("[{}]", fmt::join(left.shape, ", ")),
              fmt::format("[{}]", fmt::join(right.shape, ", ")));
    }
  }

  template <typename T>
  void compare_numbers(const std::string& field, const std::vector<T>& left,
                       const std::vector<T>& right, double tolerance) {
    if (left.size() != right.size()) {
      add(field, fmt::format("{} values", left.size()), fmt::format("{} values", right.size()));
      return;
    }
    const Worst worst = worst_of(left, right, [tolerance](T a, T b) {
      const double distance = std::fabs(static_cast<double>(a) - static_cast<double>(b));
      const double size =
          std::max(std::fabs(static_cast<double>(a)), std::fabs(static_cast<double>(b)));
      return distance > tolerance * size ? distance / size : 0.0;
    });
    if (worst.count > 0) {
      const std::string place =
          left.size() == 1
              ? ""
              : fmt::format(" at {} ({} of {} differ)", worst.index, worst.count, left.size());
      add(field, fmt::format("{}", left[worst.index]) + place,
          fmt::format("{}", right[worst.index]));
    }
  }

  const std::string& key_;
  const Entry& left_;
  const Entry& right_;
  double tolerance_;
  std::vector<Difference>& found_;
  bool is_different_ = false;
};

}  // namespace

std::string entry_key(const TensorEncoding& encoding) {
  if (!encoding.slot) {
    return encoding.name;
  }
  const bool is_input = encoding.slot->kind == ModuleSlot::Kind::kInput;
  return fmt::format("{} {} {}", encoding.name, is_input ? "input" : "output",
                     encoding.slot->index);
}

std::string granularity_of(const TensorEncoding& encoding) {
  return !encoding.has_scale()       ? "no scale"
         : encoding.is_lpbq()        ? "LPBQ"
         : encoding.has_two_levels() ? "blocks with floats for scales"
         : encoding.block_size       ? "per block"
         : encoding.shape.empty()    ? "per tensor"
                                     : "per channel";
}

std::vector<Difference> diff(const EncodingsDocument& left, const EncodingsDocument& right,
                             double tolerance) {
  const Index left_index = index_of(left);
  const Index right_index = index_of(right);
  std::vector<Difference> found;
  for (const std::string& key : left_index.keys) {
    const Entry& entry = left_index.entries.at(key);
    const auto other = right_index.entries.find(key);
    if (other == right_index.entries.end()) {
      found.push_back({key, "entry", type_of(*entry.encoding), ""});
    } else {
      Comparison(key, entry, other->second, tolerance, found).run();
    }
  }
  for (const std::string& key : right_index.keys) {
    if (left_index.entries.find(key) == left_index.entries.end()) {
      found.push_back({key, "entry", "", type_of(*right_index.entries.at(key).encoding)});
    }
  }
  return found;
}

}  // namespace aimet::encodings

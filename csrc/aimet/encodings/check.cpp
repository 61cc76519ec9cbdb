// The lint: what is wrong with a valid document, by itself and beside a model.

#include "aimet/encodings/encodings.h"
#include "aimet/encodings/sections.h"
#include "aimet/encodings/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <utility>

namespace aimet::encodings {
namespace {

enum class Section { kUnknown, kActivation, kParam };

struct Entry {
  const TensorEncoding* encoding;
  Section section;
};

class Check {
 public:
  Check(const EncodingsDocument& document, const ModelFacts* model) : model_(model) {
    add(document.encodings, Section::kUnknown);
    add(document.activation_encodings, Section::kActivation);
    add(document.param_encodings, Section::kParam);
  }

  std::vector<Finding> run() {
    for (const Entry& entry : entries_) {
      check_entry(*entry.encoding, entry.section);
    }
    if (model_ == nullptr) {
      return std::move(found_);
    }
    for (const Entry& entry : entries_) {
      check_beside_model(*entry.encoding, entry.section);
    }
    for (const auto& [name, facts] : *model_) {
      if (!facts.reader.empty() && by_name_.find(name) == by_name_.end()) {
        error("missing", name, fmt::format("{} reads it, and it has no encoding", facts.reader));
      }
    }
    return std::move(found_);
  }

 private:
  void add(const std::vector<TensorEncoding>& section, Section kind) {
    for (const TensorEncoding& encoding : section) {
      entries_.push_back({&encoding, kind});
      if (encoding.slot) {
        continue;
      }
      if (!by_name_.emplace(encoding.name, &encoding).second) {
        error("role", encoding.name, "is listed both as an activation and as a parameter");
      }
    }
  }

  void error(std::string rule, const std::string& name, std::string message) {
    found_.push_back({Severity::kError, std::move(rule), name, std::move(message)});
  }
  void warning(std::string rule, const std::string& name, std::string message) {
    found_.push_back({Severity::kWarning, std::move(rule), name, std::move(message)});
  }

  // --- by itself ---

  void check_entry(const TensorEncoding& encoding, Section section) {
    if (!encoding.has_scale()) {
      return;
    }
    const std::string key = entry_key(encoding);
    const double smallest = *std::min_element(encoding.scale.begin(), encoding.scale.end());
    if (smallest < static_cast<double>(std::numeric_limits<float>::min())) {
      warning(
          "range", key,
          fmt::format("its scale {} is subnormal in float32, which targets flush to 0", smallest));
    }
    if (section == Section::kActivation && granularity_of(encoding) != "per tensor") {
      warning("range", key,
              fmt::format("an activation with scales {}; targets have one scale for an activation",
                          granularity_of(encoding)));
    }
    if (encoding.is_symmetric && !encoding.is_signed && encoding.dtype == DataType::kInt) {
      warning("range", key,
              fmt::format("is marked symmetric, but its zero is level {} of an unsigned grid",
                          -encoding.offset.front()));
    }
  }

  // --- beside the model ---

  void check_beside_model(const TensorEncoding& encoding, Section section) {
    const auto found = model_->find(encoding.name);
    if (found == model_->end()) {
      error("surplus", encoding.name, "the model has no tensor of this name");
      return;
    }
    const TensorFacts& facts = found->second;
    if (!facts.is_float) {
      error("impossible", encoding.name, "the tensor is not of a floating-point type");
      return;
    }
    if (section == Section::kParam && !facts.is_param) {
      error("role", encoding.name, "is an activation of the model, listed as a parameter");
    }
    // Other constants may be quantized like activations.
    if (section == Section::kActivation && facts.is_param && facts.channel_axis) {
      error("role", encoding.name, "is a weight of the model, listed as an activation");
    }
    if (encoding.has_scale() && facts.has_shape) {
      check_shape(encoding, facts);
    }
    if (facts.product_of.size() == 2 && encoding.has_grid() && encoding.bitwidth == 32) {
      check_product(encoding, facts);
    }
  }

  void fail_shape(const TensorEncoding& encoding, const TensorFacts& facts,
                  const std::string& reason) {
    error("impossible", encoding.name,
          fmt::format("{}; the tensor has shape [{}]", reason, fmt::join(facts.shape, ", ")));
  }

  static bool fits(int64_t size, int64_t expected) { return size == -1 || size == expected; }

  void check_shape(const TensorEncoding& encoding, const TensorFacts& facts) {
    if (encoding.block_size) {
      check_blocks(encoding, facts);
      return;
    }
    if (encoding.shape.empty()) {
      return;
    }
    const auto rank = static_cast<int64_t>(facts.shape.size());
    const auto count = static_cast<int64_t>(encoding.scale.size());
    std::optional<int64_t> axis =
        encoding.channel_axis ? encoding.channel_axis : facts.channel_axis;
    if (!axis) {
      const bool has_axis = std::any_of(facts.shape.begin(), facts.shape.end(),
                                        [&](int64_t size) { return fits(size, count); });
      if (!has_axis) {
        fail_shape(encoding, facts, fmt::format("{} scales, as long as no axis", count));
      }
      return;
    }
    const int64_t index = *axis < 0 ? *axis + rank : *axis;
    if (index < 0 || index >= rank) {
      fail_shape(encoding, facts, fmt::format("scales along axis {}", *axis));
    } else if (!fits(facts.shape[static_cast<size_t>(index)], count)) {
      fail_shape(encoding, facts, fmt::format("{} scales along axis {}", count, *axis));
    }
    if (facts.channel_axis && index != *facts.channel_axis) {
      warning("impossible", encoding.name,
              fmt::format("scales along axis {}, but its output channels are axis {}: no integer "
                          "kernel can compute that",
                          *axis, *facts.channel_axis));
    }
  }

  void check_blocks(const TensorEncoding& encoding, const TensorFacts& facts) {
    const int64_t block_size = *encoding.block_size;
    if (!encoding.block_axis) {
      const auto expected = shape_of_blocks(facts, block_size);
      if (expected && element_count(*expected) != element_count(encoding.shape)) {
        fail_shape(
            encoding, facts,
            fmt::format("{} blocks of {}, where there must be {}", element_count(encoding.shape),
                        block_size, element_count(*expected)));
      }
      return;
    }
    if (encoding.shape.size() != facts.shape.size()) {
      fail_shape(encoding, facts,
                 fmt::format("scales of shape [{}]", fmt::join(encoding.shape, ", ")));
      return;
    }
    for (size_t axis = 0; axis < facts.shape.size(); ++axis) {
      const int64_t size = facts.shape[axis];
      const bool is_blocks = static_cast<int64_t>(axis) == *encoding.block_axis;
      const int64_t expected =
          is_blocks ? size / block_size + (size % block_size != 0 ? 1 : 0) : size;
      if (size != -1 && encoding.shape[axis] != expected &&
          (is_blocks || encoding.shape[axis] != 1)) {
        fail_shape(encoding, facts,
                   fmt::format("{} scales along axis {}{}", encoding.shape[axis], axis,
                               is_blocks ? fmt::format(" with blocks of {}", block_size) : ""));
        return;
      }
    }
  }

  // An accumulator has the scale input * weight; a bias with another one has to be requantized.
  void check_product(const TensorEncoding& encoding, const TensorFacts& facts) {
    const auto input = by_name_.find(facts.product_of[0]);
    const auto weight = by_name_.find(facts.product_of[1]);
    if (input == by_name_.end() || weight == by_name_.end() || !input->second->has_grid() ||
        !weight->second->has_grid() || input->second->scale.size() != 1 ||
        weight->second->block_size) {
      return;
    }
    const std::vector<double>& weights = weight->second->scale;
    const std::vector<double>& scales = encoding.scale;
    const size_t count = std::max(scales.size(), weights.size());
    if (scales.size() != count && scales.size() != 1) {
      return;
    }
    for (size_t index = 0; index < count; ++index) {
      const double scale = scales[scales.size() == 1 ? 0 : index];
      const double expected =
          input->second->scale.front() * weights[weights.size() == 1 ? 0 : index % weights.size()];
      // float32 products of float32 numbers are half a unit of the last place off.
      if (std::fabs(scale - expected) >
          static_cast<double>(std::numeric_limits<float>::epsilon()) * expected) {
        warning("bias", encoding.name,
                fmt::format("its scale {} is not that of `{}` times that of `{}`, {}", scale,
                            facts.product_of[0], facts.product_of[1], expected));
        return;
      }
    }
  }

  const ModelFacts* model_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, const TensorEncoding*> by_name_;
  std::vector<Finding> found_;
};

}  // namespace

std::vector<Finding> check(const EncodingsDocument& document, const ModelFacts* model) {
  const std::string source(kDocumentSource);
  validate(document, source);
  const bool names_modules =
      std::any_of(document.activation_encodings.begin(), document.activation_encodings.end(),
                  [](const TensorEncoding& encoding) { return encoding.slot.has_value(); });
  if (model != nullptr && names_modules) {
    throw UnsupportedError(
        source, "$.activation_encodings",
        "names inputs and outputs of modules, which the model's tensors cannot be "
        "compared with");
  }
  return Check(document, model).run();
}

}  // namespace aimet::encodings

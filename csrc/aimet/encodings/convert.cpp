// From version to version: fills in what the old one implies and the new one spells out, and proves
// by reading the result back that nothing is lost.

#include "aimet/encodings/encodings.h"
#include "aimet/encodings/sections.h"
#include "aimet/encodings/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace aimet::encodings {
namespace {

class Conversion {
 public:
  Conversion(const EncodingsDocument& document, std::string_view version,
             const ConvertOptions& options)
      : result_(document), version_(version), options_(options) {}

  EncodingsDocument run() {
    if (is_version_2(version_)) {
      for_each_section([&](std::vector<TensorEncoding>& section, std::string_view name) {
        if (options_.drops_unscaled) {
          std::erase_if(section, [](const TensorEncoding& e) { return !e.has_scale(); });
        }
        for (TensorEncoding& encoding : section) {
          fill_in_axes(encoding, name);
        }
      });
    } else {
      for_each_section([&](std::vector<TensorEncoding>& section, std::string_view name) {
        for (const TensorEncoding& encoding : section) {
          expect_implied_axes(encoding, name);
        }
      });
      assign_roles();
    }
    expect_no_loss();
    result_.version = version_;
    return std::move(result_);
  }

 private:
  template <typename Function>
  void for_each_section(const Function& function) {
    function(result_.encodings, "encodings");
    function(result_.activation_encodings, "activation_encodings");
    function(result_.param_encodings, "param_encodings");
  }

  [[noreturn]] void fail(const TensorEncoding& encoding, std::string_view section,
                         const std::string& reason) const {
    throw UnsupportedError(source_, section_path(section, encoding), reason);
  }

  const TensorFacts* facts_of(const TensorEncoding& encoding) const {
    const auto found = options_.model.find(encoding.name);
    return found == options_.model.end() ? nullptr : &found->second;
  }

  // Versions before 2 imply that channels are output channels and blocks lie along input channels.
  void fill_in_axes(TensorEncoding& encoding, std::string_view section) {
    if (!encoding.has_scale() || encoding.shape.empty()) {
      return;
    }
    const TensorFacts* facts = facts_of(encoding);
    if (!encoding.channel_axis && facts != nullptr) {
      encoding.channel_axis = facts->channel_axis;
    }
    const bool is_blocks = encoding.block_size.has_value();
    if (!is_blocks || encoding.block_axis || facts == nullptr || !facts->has_shape ||
        !encoding.channel_axis || !facts->channel_axis || !facts->block_axis) {
      return;
    }
    const std::optional<std::vector<int64_t>> shape = shape_of_blocks(*facts, *encoding.block_size);
    const size_t count =
        encoding.is_lpbq() ? encoding.per_block_int_scale.size() : encoding.scale.size();
    const bool is_interleaved = encoding.is_lpbq() && *facts->block_axis < *encoding.channel_axis;
    if (!shape || *encoding.channel_axis != facts->channel_axis || is_interleaved ||
        element_count(*shape) != static_cast<int64_t>(count)) {
      fail(encoding, section,
           fmt::format("{} blocks of {} do not cover a tensor of shape [{}], of which axis {} are "
                       "the channels and axis {} the blocks",
                       count, *encoding.block_size, fmt::join(facts->shape, ", "),
                       *encoding.channel_axis, *facts->block_axis));
    }
    encoding.shape = *shape;
    encoding.block_axis = *facts->block_axis;
  }

  void expect_implied_axes(const TensorEncoding& encoding, std::string_view section) const {
    if (!encoding.has_scale() || encoding.shape.empty() || !is_version_2(result_.version)) {
      return;
    }
    const TensorFacts* facts = facts_of(encoding);
    const bool is_known = facts != nullptr && facts->channel_axis.has_value();
    const int64_t channel_axis = is_known ? *facts->channel_axis : 0;
    if (encoding.channel_axis && *encoding.channel_axis != channel_axis) {
      fail(encoding, section,
           fmt::format("version {} has no axis and implies output channels, axis {}{}, but the "
                       "scales vary along axis {}",
                       version_, channel_axis,
                       is_known ? "" : " for all that is known without the model",
                       *encoding.channel_axis));
    }
    if (encoding.is_lpbq() && encoding.block_axis && encoding.channel_axis &&
        *encoding.block_axis < *encoding.channel_axis) {
      fail(encoding, section,
           fmt::format("version {} lists the blocks of one channel after the other, here they are "
                       "interleaved",
                       version_));
    }
  }

  void assign_roles() {
    for (TensorEncoding& encoding : result_.encodings) {
      const TensorFacts* facts = facts_of(encoding);
      bool is_param = false;
      if (facts != nullptr) {
        is_param = facts->is_param;
      } else if (options_.param_names) {
        is_param = options_.param_names->count(encoding.name) > 0;
      } else if (!options_.model.empty()) {
        fail(encoding, "encodings",
             fmt::format("version {} lists parameters apart from activations, and the model has no "
                         "tensor of this name",
                         version_));
      } else {
        return;  // the writer says what is missing
      }
      (is_param ? result_.param_encodings : result_.activation_encodings)
          .push_back(std::move(encoding));
    }
    result_.encodings.clear();
  }

  // What comes out, read again, means what went in.
  void expect_no_loss() const {
    const EncodingsDocument again = parse(serialize(result_, version_), source_);
    const std::vector<Difference> lost = diff(result_, again);
    if (!lost.empty()) {
      throw UnsupportedError(
          source_, "$" + json_path_step(lost.front().name),
          fmt::format("version {} does not hold its `{}` ({}, would become {})", version_,
                      lost.front().field, lost.front().left, lost.front().right));
    }
  }

  EncodingsDocument result_;
  std::string version_;
  const ConvertOptions& options_;
  std::string source_{kDocumentSource};
};

}  // namespace

bool is_version_2(std::string_view version) {
  return version.starts_with("2.");
}

EncodingsDocument convert(const EncodingsDocument& document, std::string_view version,
                          const ConvertOptions& options) {
  validate(document, std::string(kDocumentSource));
  return Conversion(document, version, options).run();
}

std::vector<std::string> sections_without_place(const EncodingsDocument& document,
                                                std::string_view version) {
  std::vector<std::string> names;
  if (is_version_2(version) && !document.excluded_layers.empty()) {
    names.emplace_back("excluded_layers");
  }
  if (is_version_2(version) && !document.quantizer_args.empty()) {
    names.emplace_back("quantizer_args");
  }
  return names;
}

}  // namespace aimet::encodings

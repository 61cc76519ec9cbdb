// Nested lists: shape and values, with the JSON path of what is ragged.

#include "aimet/encodings/nested.h"

#include <fmt/format.h>

namespace aimet::encodings {
namespace {

class Reader {
 public:
  Reader(const std::function<double(const JsonView&)>& read, Nested& nested)
      : read_(read), nested_(nested) {}

  void read_level(const JsonView& view, size_t depth) {
    if (!view.is_array()) {
      if (is_shape_known_ && depth != nested_.shape.size()) {
        view.fail(fmt::format("nested {} deep, where others are nested {} deep", depth,
                              nested_.shape.size()));
      }
      is_shape_known_ = true;  // the first number ends the first way down
      nested_.values.push_back(read_(view));
      return;
    }
    const auto size = static_cast<int64_t>(view.json().size());
    if (size == 0) {
      view.fail("must not be empty");
    }
    if (!is_shape_known_) {
      nested_.shape.push_back(size);
    } else if (depth >= nested_.shape.size()) {
      view.fail(fmt::format("nested deeper than others, which are nested {} deep", depth));
    } else if (nested_.shape[depth] != size) {
      view.fail(fmt::format("has {} elements, where others have {}", size, nested_.shape[depth]));
    }
    view.for_each_element([&](const JsonView& element) { read_level(element, depth + 1); });
  }

 private:
  const std::function<double(const JsonView&)>& read_;
  Nested& nested_;
  bool is_shape_known_ = false;
};

}  // namespace

Nested read_nested(const JsonView& view, const std::function<double(const JsonView&)>& read) {
  Nested nested;
  Reader(read, nested).read_level(view, 0);
  return nested;
}

}  // namespace aimet::encodings

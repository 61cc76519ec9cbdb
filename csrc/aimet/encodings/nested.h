// Nested lists of numbers, as versions 2.x hold scales: the nesting is the shape. Internal to the
// encodings library.

#pragma once

#include "aimet/encodings/json_view.h"

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace aimet::encodings {

struct Nested {
  std::vector<int64_t> shape;  // {} for a bare number
  std::vector<double> values;  // row-major
};

// Reads a number or lists of lists of them, all of one length on each level. `read` checks a
// number.
Nested read_nested(const JsonView& view, const std::function<double(const JsonView&)>& read);

// `values` as lists of `shape`; a bare number for {}.
template <typename T>
Json to_nested_json(const std::vector<T>& values, const std::vector<int64_t>& shape) {
  if (shape.empty()) {
    return Json(values.front());
  }
  std::vector<Json> level(values.begin(), values.end());
  for (size_t axis = shape.size(); axis-- > 0;) {
    std::vector<Json> lists;
    const auto size = static_cast<size_t>(shape[axis]);
    for (size_t first = 0; first < level.size(); first += size) {
      Json list = Json::array();
      for (size_t index = first; index < first + size; ++index) {
        list.push_back(std::move(level[index]));
      }
      lists.push_back(std::move(list));
    }
    level = std::move(lists);
  }
  return std::move(level.front());
}

}  // namespace aimet::encodings

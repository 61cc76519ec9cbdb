// Strict JSON for untrusted input: a parser that also rejects duplicate keys, deep nesting and
// large inputs, and a cursor whose accessors check types and ranges and report the JSON path of
// what is wrong. Internal to the encodings library.

#pragma once

#include "aimet/encodings/encodings.h"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace aimet::encodings {

using Json = nlohmann::ordered_json;  // files keep the order of their tensors

// Parses `text`; throws FormatError with line and column.
Json parse_json(std::string_view text, const std::string& source, const Limits& limits);

// Appends a member whose key is known to be new. The map's own interface searches for the key
// first, which makes building a large object quadratic.
Json& append_member(Json& object, std::string key, Json value);

// A value inside a document. Holds pointers to the value, to `source` and to the parent view, all
// of which must outlive it; hence children cannot be taken from temporaries.
class JsonView {
 public:
  JsonView(const Json& value, const std::string& source) : value_(&value), source_(&source) {}

  // Members of an object. `member` throws when there is none; `find` gives nothing.
  JsonView member(std::string_view key) const&;
  std::optional<JsonView> find(std::string_view key) const&;
  JsonView member(std::string_view key) const&& = delete;
  std::optional<JsonView> find(std::string_view key) const&& = delete;
  // Throws when the object has a key outside of `known`: a misspelt optional key, or one from a
  // newer format, would otherwise change the meaning of the numbers silently.
  void expect_keys(std::initializer_list<std::string_view> known) const;

  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }
  bool is_null() const { return value_->is_null(); }
  const Json& json() const { return *value_; }

  void expect_object() const;
  void expect_array() const;
  std::string string() const;
  bool boolean() const;
  int64_t integer(int64_t lowest, int64_t highest) const;
  // As `integer`, but a number such as -128.0 is taken as well.
  int64_t integral_number(int64_t lowest, int64_t highest) const;
  double number() const;
  // Positive and finite also when rounded to float32, the type that consumers of a file compute in.
  double scale() const;

  template <typename Function>  // called with each element's view
  void for_each_element(const Function& function) const {
    expect_array();
    for (size_t index = 0; index < value_->size(); ++index) {
      function(JsonView((*value_)[index], *source_, this, {}, index));
    }
  }
  template <typename Function>  // called with each member's key and view
  void for_each_member(const Function& function) const {
    expect_object();
    for (auto member = value_->begin(); member != value_->end(); ++member) {
      function(member.key(), JsonView(member.value(), *source_, this, member.key(), 0));
    }
  }

  std::string path() const;
  const std::string& source() const { return *source_; }
  [[noreturn]] void fail(const std::string& reason) const;
  [[noreturn]] void fail_unsupported(const std::string& reason) const;

 private:
  JsonView(const Json& value, const std::string& source, const JsonView* parent,
           std::string_view key, size_t index)
      : value_(&value), source_(&source), parent_(parent), key_(key), index_(index) {}

  [[noreturn]] void fail_type(std::string_view expected) const;
  int64_t checked_integer(bool allow_integral_float, int64_t lowest, int64_t highest) const;

  const Json* value_;
  const std::string* source_;
  const JsonView* parent_ = nullptr;
  std::string_view key_;  // of an object's member
  size_t index_ = 0;      // of an array's element
};

// A list of checked values, e.g. `read_list<double>(view, &JsonView::number)`.
template <typename T, typename Accessor>
std::vector<T> read_list(const JsonView& view, const Accessor& accessor) {
  std::vector<T> values;
  view.for_each_element([&](const JsonView& element) { values.push_back(accessor(element)); });
  return values;
}

// `.key`, or `["key"]` when the key is no identifier.
std::string json_path_step(std::string_view key);

}  // namespace aimet::encodings

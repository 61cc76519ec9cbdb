// Type and range checks with the JSON path of the offender.

#include "aimet/encodings/json_view.h"

#include "aimet/encodings/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>

namespace aimet::encodings {
namespace {

// Values are quoted in messages up to this many bytes of JSON.
constexpr size_t kQuotedBytes = 60;
// From here on doubles no longer hold every integer, so -1e17 is no trustworthy integer.
constexpr double kLargestExactInteger = 9007199254740992.0;  // 2^53

bool is_identifier(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_';
  });
}

std::string dump(const Json& value) {
  // Parsed strings are valid UTF-8; `replace` only matters where `quote` cuts one.
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string quote(const Json& value) {
  if (value.is_structured()) {
    return fmt::format("{} of {}", value.is_array() ? "an array" : "an object", value.size());
  }
  std::string text = dump(value);
  if (text.size() > kQuotedBytes) {
    size_t end = kQuotedBytes;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) {
      --end;  // not in the middle of a UTF-8 sequence
    }
    text = text.substr(0, end) + "...";
  }
  return text;
}

}  // namespace

std::string json_path_step(std::string_view key) {
  return is_identifier(key) ? fmt::format(".{}", key) : "[" + dump(Json(std::string(key))) + "]";
}

std::string JsonView::path() const {
  if (parent_ == nullptr) {
    return "$";
  }
  return parent_->path() +
         (parent_->is_array() ? fmt::format("[{}]", index_) : json_path_step(key_));
}

void JsonView::fail(const std::string& reason) const {
  throw FormatError(*source_, path(), reason);
}

void JsonView::fail_unsupported(const std::string& reason) const {
  throw UnsupportedError(*source_, path(), reason);
}

void JsonView::fail_type(std::string_view expected) const {
  fail(fmt::format("must be {}, got {}", expected, quote(*value_)));
}

std::optional<JsonView> JsonView::find(std::string_view key) const& {
  expect_object();
  const auto member = value_->find(key);
  if (member == value_->end()) {
    return std::nullopt;
  }
  return JsonView(member.value(), *source_, this, member.key(), 0);
}

JsonView JsonView::member(std::string_view key) const& {
  const std::optional<JsonView> found = find(key);
  if (!found) {
    fail(fmt::format("has no key `{}`", key));
  }
  return *found;
}

void JsonView::expect_keys(std::initializer_list<std::string_view> known) const {
  for_each_member([&](const std::string& key, const JsonView& member) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      member.fail(fmt::format("unknown key; known here: {}", fmt::join(known, ", ")));
    }
  });
}

void JsonView::expect_object() const {
  if (!is_object()) {
    fail_type("an object");
  }
}

void JsonView::expect_array() const {
  if (!is_array()) {
    fail_type("an array");
  }
}

std::string JsonView::string() const {
  if (!value_->is_string()) {
    fail_type("a string");
  }
  return value_->get<std::string>();
}

bool JsonView::boolean() const {
  if (!value_->is_boolean()) {
    fail_type("true or false");
  }
  return value_->get<bool>();
}

int64_t JsonView::checked_integer(bool allow_integral_float, int64_t lowest,
                                  int64_t highest) const {
  int64_t result = 0;
  bool is_representable = true;
  if (value_->is_number_unsigned()) {
    const auto value = value_->get<uint64_t>();
    is_representable = value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    result = static_cast<int64_t>(value);
  } else if (value_->is_number_integer()) {
    result = value_->get<int64_t>();
  } else if (allow_integral_float && value_->is_number_float()) {
    const auto value = value_->get<double>();
    if (std::trunc(value) != value) {
      fail_type("an integer");
    }
    is_representable = std::fabs(value) <= kLargestExactInteger;
    result = is_representable ? static_cast<int64_t>(value) : 0;
  } else {
    fail_type("an integer");
  }
  if (!is_representable || result < lowest || result > highest) {
    fail(fmt::format("must be between {} and {}, got {}", lowest, highest, quote(*value_)));
  }
  return result;
}

int64_t JsonView::integer(int64_t lowest, int64_t highest) const {
  return checked_integer(/*allow_integral_float=*/false, lowest, highest);
}

int64_t JsonView::integral_number(int64_t lowest, int64_t highest) const {
  return checked_integer(/*allow_integral_float=*/true, lowest, highest);
}

double JsonView::number() const {
  if (!value_->is_number()) {
    fail_type("a number");
  }
  return value_->get<double>();
}

double JsonView::scale() const {
  const double value = number();
  if (!is_valid_scale(value)) {
    fail(fmt::format("a scale must be positive and finite in float32, got {}", quote(*value_)));
  }
  return value;
}

}  // namespace aimet::encodings

// Text to JSON tree, on top of nlohmann's SAX parser, which checks syntax, UTF-8 and number range.

#include "aimet/encodings/json_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace aimet::encodings {
namespace {

// Objects below this size are searched linearly for duplicate keys; larger ones keep a hash set.
constexpr size_t kLinearSearchSize = 16;
// What values take in memory, at most: a growing vector has up to twice the room that it needs, and
// half of that again while it moves; taking the tree down lists the children once more; large
// objects keep a set of their keys beside them.
constexpr size_t kValueBytes = 5 * sizeof(Json);
constexpr size_t kStringBytes = 2 * sizeof(std::string);
constexpr size_t kContainerBytes = kValueBytes + 64;
constexpr size_t kMemberBytes = 5 * sizeof(std::string) + 64;
// The parser's own messages are cut after this many bytes.
constexpr size_t kMessageBytes = 200;

std::string line_and_column(std::string_view text, size_t position) {
  const std::string_view before = text.substr(0, std::min(position, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 == 0: the first line
  return fmt::format("line {}, column {}", line, std::max<size_t>(before.size() - line_start, 1));
}

// nlohmann's messages read "[json.exception.parse_error.101] parse error at line 1, column 2:
// syntax error while parsing value - ...; last read: '...'". The location is reported by us, and
// what was read last can be long, and no UTF-8.
std::string clean_message(std::string_view message) {
  const size_t bracket = message.find("] ");
  if (bracket != std::string_view::npos) {
    message.remove_prefix(bracket + 2);
  }
  const size_t location_end = message.find(": ");
  if (message.starts_with("parse error at line ") && location_end != std::string_view::npos) {
    message.remove_prefix(location_end + 2);
  }
  std::string text;
  for (const char c : message.substr(0, kMessageBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    text += byte < 0x80 ? std::string(1, c) : fmt::format("<{:02x}>", byte);
  }
  return message.size() > kMessageBytes ? text + "..." : text;
}

class TreeBuilder : public nlohmann::json_sax<Json> {
 public:
  TreeBuilder(std::string_view text, const std::string& source, const Limits& limits)
      : text_(text), source_(source), limits_(limits) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(Json(nullptr)); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override {
    take_memory(kStringBytes + value.size());
    return add(Json(std::move(value)));
  }
  bool binary(binary_t&) override { return false; }  // does not occur in text
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Frame& frame = frames_.back();
    if (is_duplicate(frame, name)) {
      throw FormatError(source_, path() + json_path_step(name), "duplicate key");
    }
    take_memory(kMemberBytes + name.size());
    frame.key = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw FormatError(source_, line_and_column(text_, position),
                      "not valid JSON: " + clean_message(error.what()));
  }

 private:
  struct Frame {
    Json* container;
    std::string key;  // of the member that is being parsed
    std::unordered_set<std::string> keys;
  };

  static bool is_duplicate(Frame& frame, const std::string& name) {
    const auto& members = frame.container->get_ref<const Json::object_t&>();
    if (members.size() < kLinearSearchSize) {
      return std::any_of(members.begin(), members.end(),
                         [&](const auto& member) { return member.first == name; });
    }
    if (frame.keys.empty()) {
      for (const auto& member : members) {
        frame.keys.insert(member.first);
      }
    }
    return !frame.keys.insert(name).second;
  }

  Json* attach(Json value) {
    if (frames_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Frame& frame = frames_.back();
    if (frame.container->is_array()) {
      frame.container->push_back(std::move(value));
      return &frame.container->back();
    }
    return &append_member(*frame.container, frame.key, std::move(value));
  }

  // Counts what the tree takes, so that a small text of many small values ends in an error and not
  // in a machine without memory.
  void take_memory(size_t bytes) {
    memory_ += static_cast<int64_t>(bytes);
    if (memory_ > limits_.max_memory) {
      throw FormatError(source_, path(),
                        fmt::format("its values take more than the limit of {} bytes of memory",
                                    limits_.max_memory));
    }
  }

  bool add(Json value) {
    take_memory(kValueBytes);
    attach(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (frames_.size() >= static_cast<size_t>(limits_.max_depth)) {
      throw FormatError(source_, path(),
                        fmt::format("nested deeper than {} levels", limits_.max_depth));
    }
    take_memory(kContainerBytes);
    frames_.push_back({attach(std::move(container)), {}, {}});
    return true;
  }

  bool close() {
    frames_.pop_back();
    return true;
  }

  std::string path() const {
    std::string text = "$";
    for (size_t depth = 0; depth + 1 < frames_.size(); ++depth) {
      const Frame& frame = frames_[depth];
      text += frame.container->is_array() ? fmt::format("[{}]", frame.container->size() - 1)
                                          : json_path_step(frame.key);
    }
    return text;
  }

  std::string_view text_;
  const std::string& source_;
  const Limits& limits_;
  Json root_;
  int64_t memory_ = 0;
  std::vector<Frame> frames_;
};

}  // namespace

Json& append_member(Json& object, std::string key, Json value) {
  auto& members = static_cast<Json::object_t::Container&>(object.get_ref<Json::object_t&>());
  return members.emplace_back(std::move(key), std::move(value)).second;
}

Json parse_json(std::string_view text, const std::string& source, const Limits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    throw FormatError(
        source, "",
        fmt::format("{} bytes are more than the limit of {} bytes", text.size(), limits.max_bytes));
  }
  TreeBuilder builder(text, source, limits);
  Json::sax_parse(text, &builder);
  return builder.take();
}

}  // namespace aimet::encodings

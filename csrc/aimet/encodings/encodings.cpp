// The public functions: pick the version, check, convert.

#include "aimet/encodings/encodings.h"

#include "aimet/encodings/atomic_file.h"
#include "aimet/encodings/format.h"
#include "aimet/encodings/json_view.h"
#include "aimet/encodings/sections.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

namespace aimet::encodings {
namespace {

// The one list of versions, ascending.
constexpr std::array<Format, 7> kFormats = {{
    {"", read_0_4_0, write_unversioned},
    {"0.4.0", read_0_4_0, nullptr},
    {"0.5.0", read_0_6_1, nullptr},
    {"0.6.1", read_0_6_1, write_0_6_1},
    {"1.0.0", read_1_0_0, write_1_0_0},
    {"2.0.0", read_2_0_0, write_2_0_0},
    {"2.1.0", read_2_1_0, write_2_1_0},
}};

std::vector<std::string> versions(bool (*predicate)(const Format&)) {
  std::vector<std::string> names;
  for (const Format& format : kFormats) {
    if (!format.version.empty() && predicate(format)) {
      names.emplace_back(format.version);
    }
  }
  return names;
}

const Format* find_format(std::string_view version) {
  const auto* const found =
      std::find_if(kFormats.begin(), kFormats.end(),
                   [&](const Format& format) { return format.version == version; });
  return found == kFormats.end() ? nullptr : found;
}

}  // namespace

std::vector<std::string> readable_versions() {
  return versions([](const Format&) { return true; });
}

std::vector<std::string> writable_versions() {
  return versions([](const Format& format) { return format.write != nullptr; });
}

EncodingsDocument parse(std::string_view text, const std::string& source, const Limits& limits) {
  const Json tree = parse_json(text, source, limits);
  const JsonView root(tree, source);
  EncodingsDocument document;
  const Format* format = find_format("");
  if (const auto version = root.find("version")) {
    document.version = version->string();
    format = document.version.empty() ? nullptr : find_format(document.version);
    if (format == nullptr) {
      version->fail_unsupported(fmt::format("version \"{}\" is not supported; readable: {}",
                                            document.version,
                                            fmt::join(readable_versions(), ", ")));
    }
  }
  format->read(root, document);
  validate(document, source);
  return document;
}

EncodingsDocument read_file(const std::string& path, const Limits& limits) {
  return parse(read_regular_file(path, limits.max_bytes), path, limits);
}

std::string serialize(const EncodingsDocument& document, std::string_view version) {
  const std::string source(kDocumentSource);
  const Format* format = find_format(version);
  if (format == nullptr || format->write == nullptr) {
    throw UnsupportedError(source, "",
                           fmt::format("version \"{}\" cannot be written; writable: {}", version,
                                       fmt::join(writable_versions(), ", ")));
  }
  validate(document, source);
  return to_text(format->write(document, source));
}

void write_file(const std::string& path, const EncodingsDocument& document,
                std::string_view version) {
  write_file_atomically(path, serialize(document, version));
}

}  // namespace aimet::encodings

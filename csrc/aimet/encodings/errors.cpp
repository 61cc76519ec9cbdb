// Text of the encodings library's errors.

#include "aimet/encodings/errors.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

namespace aimet::encodings {
namespace {

std::string join(const std::string& source, const std::string& location,
                 const std::string& reason) {
  std::string text;
  for (const std::string* part : {&source, &location}) {
    if (!part->empty()) {
      text += *part + ": ";
    }
  }
  return text + reason;
}

}  // namespace

EncodingsError::EncodingsError(std::string source, std::string location, std::string reason)
    : std::runtime_error(join(source, location, reason)),
      source_(std::move(source)),
      location_(std::move(location)),
      reason_(std::move(reason)) {}

FileError::FileError(std::string source, const std::string& action, int error_number)
    : EncodingsError(std::move(source), "",
                     fmt::format("{}: {}", action, std::generic_category().message(error_number))),
      error_number_(error_number) {}

}  // namespace aimet::encodings

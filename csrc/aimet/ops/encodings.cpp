// read_encodings, parse_encodings and write_encodings: the encodings library as operators, so that
// Python reaches it without a second binding. Documents pass as JSON text
// (csrc/aimet/encodings/neutral.cpp has its form).
#include "aimet/encodings/encodings.h"

#include <c10/util/Exception.h>
#include <torch/library.h>

#include <string>

namespace aimet {
namespace {

// The library's exceptions as those that the dispatcher turns into ValueError, NotImplementedError
// and, for the file system, RuntimeError; the error number in its text lets Python raise the
// OSError that the user expects.
template <typename Function>
auto translate_errors(const char* op, const Function& function) -> decltype(function()) {
  try {
    return function();
  } catch (const encodings::FileError& error) {
    TORCH_CHECK(false, op, ": ", error.what(), " [errno ", error.error_number(), "]");
  } catch (const encodings::UnsupportedError& error) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, op, ": ", error.what());
  } catch (const encodings::EncodingsError& error) {
    TORCH_CHECK_VALUE(false, op, ": ", error.what());
  }
}

std::string read_encodings(std::string path) {
  return translate_errors("read_encodings",
                          [&] { return encodings::to_neutral_json(encodings::read_file(path)); });
}

std::string parse_encodings(std::string text, std::string source) {
  return translate_errors("parse_encodings", [&] {
    return encodings::to_neutral_json(encodings::parse(text, source));
  });
}

void write_encodings(std::string path, std::string document, std::string version) {
  translate_errors("write_encodings", [&] {
    encodings::write_file(path, encodings::from_neutral_json(document), version);
  });
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("read_encodings", &aimet::read_encodings);
  m.impl("parse_encodings", &aimet::parse_encodings);
  m.impl("write_encodings", &aimet::write_encodings);
}

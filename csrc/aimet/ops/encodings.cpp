// read_encodings, parse_encodings, write_encodings, check_encodings, diff_encodings and
// convert_encodings: the encodings library as operators, so that Python reaches it without a second
// binding. Documents and results pass as JSON text (neutral.cpp and neutral_model.h of
// csrc/aimet/encodings have its form).
#include "aimet/encodings/encodings.h"

#include "aimet/encodings/neutral_model.h"

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

// `model` may be "": then the document is checked by itself.
std::string check_encodings(std::string document, std::string model) {
  return translate_errors("check_encodings", [&] {
    const encodings::EncodingsDocument read = encodings::from_neutral_json(document);
    if (model.empty()) {
      return encodings::findings_json(encodings::check(read));
    }
    const encodings::ModelFacts facts = encodings::read_model_facts(model);
    return encodings::findings_json(encodings::check(read, &facts));
  });
}

std::string diff_encodings(std::string left, std::string right, double tolerance) {
  return translate_errors("diff_encodings", [&] {
    return encodings::differences_json(encodings::diff(
        encodings::from_neutral_json(left), encodings::from_neutral_json(right), tolerance));
  });
}

std::string convert_encodings(std::string document, std::string version, std::string options) {
  return translate_errors("convert_encodings", [&] {
    return encodings::to_neutral_json(encodings::convert(
        encodings::from_neutral_json(document), version, encodings::read_convert_options(options)));
  });
}

}  // namespace
}  // namespace aimet

TORCH_LIBRARY_IMPL(aimet, CompositeExplicitAutograd, m) {
  m.impl("read_encodings", &aimet::read_encodings);
  m.impl("parse_encodings", &aimet::parse_encodings);
  m.impl("write_encodings", &aimet::write_encodings);
  m.impl("check_encodings", &aimet::check_encodings);
  m.impl("diff_encodings", &aimet::diff_encodings);
  m.impl("convert_encodings", &aimet::convert_encodings);
}

// Read, check and write quantization encodings files. Free of torch: a deployment program can use
// this library alone.
//
// Versions 0.4.0 and 0.5.0 can be read; 0.6.1 and 1.0.0 can be read and written. Files of the 0.x
// family may also carry no version and may name modules instead of tensors (AdaRound's parameter
// file, `_torch.encodings`).
//
// Every malformed input ends in a FormatError or an UnsupportedError, every failure of the file
// system in a FileError (errors.h). All functions may be called from several threads at once.

#pragma once

#include "aimet/encodings/document.h"
#include "aimet/encodings/errors.h"
#include "aimet/export.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aimet::encodings {

// Bounds on untrusted input. The largest real files (blockwise encodings of language models, one
// object per block in 0.6.1) take hundreds of megabytes.
struct Limits {
  int64_t max_bytes = int64_t{1} << 30;
  int max_depth = 32;  // nesting of arrays and objects; the formats need 7
};

// Reads the file at `path` (UTF-8, a regular file).
AIMET_API EncodingsDocument read_file(const std::string& path, const Limits& limits = {});

// Reads a file's text; `source` names it in errors.
AIMET_API EncodingsDocument parse(std::string_view text, const std::string& source,
                                  const Limits& limits = {});

// The text of a file of `version`, ending in a line feed. "" writes the 0.6.1 entries without a
// version and without empty sections. Numbers have as many digits as it takes to read back to the
// same double, hence to the same float32 when the scale was one.
AIMET_API std::string serialize(const EncodingsDocument& document, std::string_view version);

// serialize() into a file, atomically: another process sees the old file or the new one, and a
// failure leaves the old one (or none) and no temporary file.
AIMET_API void write_file(const std::string& path, const EncodingsDocument& document,
                          std::string_view version);

// The JSON form in which a document passes between Python and C++; it loses nothing.
AIMET_API std::string to_neutral_json(const EncodingsDocument& document);
AIMET_API EncodingsDocument from_neutral_json(std::string_view text, const Limits& limits = {});

// Throws FormatError where fields of `document` contradict each other (lengths, ranges, shapes).
// Readers and writers call it; `source` names the document in errors.
AIMET_API void validate(const EncodingsDocument& document, const std::string& source);

// Versions in ascending order.
AIMET_API std::vector<std::string> readable_versions();
AIMET_API std::vector<std::string> writable_versions();

}  // namespace aimet::encodings

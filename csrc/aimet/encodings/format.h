// The table of file versions. A further version is one more file with a reader and a writer and
// one more line in formats() (encodings.cpp). Internal to the encodings library.

#pragma once

#include "aimet/encodings/document.h"
#include "aimet/encodings/json_view.h"

#include <string>
#include <string_view>

namespace aimet::encodings {

// Fills the sections of `document`, whose version is set already, from the root object.
using ReadFunction = void (*)(const JsonView& root, EncodingsDocument& document);
// The root object of a file. `document` is valid; throws UnsupportedError, with `source` naming
// the document, for what the version cannot express.
using WriteFunction = Json (*)(const EncodingsDocument& document, const std::string& source);

struct Format {
  std::string_view version;  // "" for files without one
  ReadFunction read;
  WriteFunction write;  // null when the version can only be read
};

// version_0_6_1.cpp: the 0.x family, which grew by optional keys.
void read_0_4_0(const JsonView& root, EncodingsDocument& document);  // no `dtype`: integers
void read_0_6_1(const JsonView& root, EncodingsDocument& document);  // `dtype` required
Json write_0_6_1(const EncodingsDocument& document, const std::string& source);
Json write_unversioned(const EncodingsDocument& document, const std::string& source);

// version_1_0_0.cpp
void read_1_0_0(const JsonView& root, EncodingsDocument& document);
Json write_1_0_0(const EncodingsDocument& document, const std::string& source);

// version_2_read.cpp, version_2_write.cpp
void read_2_0_0(const JsonView& root, EncodingsDocument& document);
void read_2_1_0(const JsonView& root, EncodingsDocument& document);
Json write_2_0_0(const EncodingsDocument& document, const std::string& source);
Json write_2_1_0(const EncodingsDocument& document, const std::string& source);

}  // namespace aimet::encodings

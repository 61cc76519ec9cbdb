// What the file versions have in common: the sections besides the encodings, the unsigned offset
// convention, and the layout of the text. Internal to the encodings library.

#pragma once

#include "aimet/encodings/document.h"
#include "aimet/encodings/json_view.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aimet::encodings {

// Names a document that does not come from a file in errors.
constexpr std::string_view kDocumentSource = "encodings document";

// `producer`, `excluded_layers` and `quantizer_args`, all optional.
void read_common_sections(const JsonView& root, EncodingsDocument& document);
void write_producer(const EncodingsDocument& document, Json& root);
void write_excluded_layers_and_quantizer_args(const EncodingsDocument& document, Json& root);

int read_int_bitwidth(const JsonView& view);
int read_float_bitwidth(const JsonView& view);
double read_zero_point_shift(const JsonView& view);

// Files hold offsets of the unsigned grid. Symmetric encodings whose offsets are all -2^(b-1), or
// all -(2^(b-1) - 1), the strict variant, become signed ones with offset 0.
void set_grid_from_unsigned(TensorEncoding& encoding, std::vector<int64_t> unsigned_offsets);
std::vector<int64_t> unsigned_offsets(const TensorEncoding& encoding);

// Fails at `view` when the finished `encoding` contradicts itself.
void expect_consistent(const TensorEncoding& encoding, const JsonView& view);

// JSON text with one line per tensor. Throws FormatError when a string is not UTF-8.
std::string to_text(const Json& root);
// One line without spaces.
std::string to_compact_text(const Json& value);

// Location of an encoding in errors about writing.
std::string section_path(std::string_view section, const TensorEncoding& encoding);

// Whether `version` is of the family with one list of entries.
bool is_version_2(std::string_view version);

// An entry's name; where a file names modules, with the input or output. And how many numbers share
// a scale, in words.
std::string entry_key(const TensorEncoding& encoding);
std::string granularity_of(const TensorEncoding& encoding);

// For versions before 2: scaled floats, floats as scales, and entries of which it is not known
// whether they are parameters have no place there.
void expect_integers_of_one_level(const TensorEncoding& encoding, std::string_view version,
                                  std::string_view section, const std::string& source);
void expect_roles(const EncodingsDocument& document, std::string_view version,
                  const std::string& source);

}  // namespace aimet::encodings

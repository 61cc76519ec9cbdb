// Whole files in and out. Internal to the encodings library.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace aimet::encodings {

// The bytes of a regular file. Throws FileError, or FormatError when there are more than
// `max_bytes`, before reading them.
std::string read_regular_file(const std::string& path, int64_t max_bytes);

// Replaces the file at `path`, or the file that a symbolic link at `path` leads to, by `content`:
// written to a temporary file in the same directory, flushed to disk, renamed. Keeps the mode of a
// file that exists. On FileError the old file is untouched and the temporary file is gone.
void write_file_atomically(const std::string& path, std::string_view content);

}  // namespace aimet::encodings

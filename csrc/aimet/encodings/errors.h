// The typed errors of the encodings library. Each says what was being read or written, where in
// the JSON the problem is, and why. Nothing else is thrown on purpose by this library, except
// std::bad_alloc when memory runs out.

#pragma once

#include "aimet/export.h"

#include <stdexcept>
#include <string>

namespace aimet::encodings {

// Common base. what() is "<source>: <location>: <reason>", without the parts that are empty.
class AIMET_API EncodingsError : public std::runtime_error {
 public:
  EncodingsError(std::string source, std::string location, std::string reason);

  // The file, or a description of the document ("encodings document") when there is no file.
  const std::string& source() const { return source_; }
  // A JSON path such as `$.param_encodings[3].scale[0]`, "line 4, column 17" for text that is
  // not JSON, or "" for errors that concern the whole source.
  const std::string& location() const { return location_; }
  const std::string& reason() const { return reason_; }

 private:
  std::string source_;
  std::string location_;
  std::string reason_;
};

// The content is wrong: not JSON, a missing or misspelt key, a wrong type, a value out of range.
class AIMET_API FormatError : public EncodingsError {
 public:
  using EncodingsError::EncodingsError;
};

// The content may be right, but this library, or the file version asked for, cannot express it.
class AIMET_API UnsupportedError : public EncodingsError {
 public:
  using EncodingsError::EncodingsError;
};

// The operating system refused: no such file, no permission, disk full.
class AIMET_API FileError : public EncodingsError {
 public:
  FileError(std::string source, const std::string& action, int error_number);

  // The value of errno.
  int error_number() const { return error_number_; }

 private:
  int error_number_;
};

}  // namespace aimet::encodings

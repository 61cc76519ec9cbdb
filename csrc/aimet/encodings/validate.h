// Rules that every encoding obeys, whatever file it comes from. Internal to the encodings library;
// validate() itself is declared in encodings.h.

#pragma once

#include "aimet/encodings/document.h"

#include <string>

namespace aimet::encodings {

constexpr int kMinBitwidth = 2;
constexpr int kMaxBitwidth = 32;

// Positive and finite also when rounded to float32, the type that consumers of files compute in.
bool is_valid_scale(double scale);

// The first rule that `encoding` breaks, as a clause for an error message; "" when there is none.
std::string find_inconsistency(const TensorEncoding& encoding);

}  // namespace aimet::encodings

// Rules that every encoding obeys, whatever file it comes from. Internal to the encodings library;
// validate() itself is declared in encodings.h.

#pragma once

#include "aimet/encodings/encodings.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace aimet::encodings {

constexpr int kMinBitwidth = 2;
constexpr int kMaxBitwidth = 32;
constexpr int64_t kMaxRank = 64;  // of a tensor; torch's limit

// Positive and finite also when rounded to float32, the type that consumers of files compute in.
bool is_valid_scale(double scale);

// Product of `shape`, or -1 when a size is not positive or the product overflows.
int64_t element_count(const std::vector<int64_t>& shape);

// The shape of the scales of a tensor whose channels and blocks lie along the axes that `facts`
// has: one for each channel and block. Nothing when the axes are none of the tensor's or its sizes
// are not known.
std::optional<std::vector<int64_t>> shape_of_blocks(const TensorFacts& facts, int64_t block_size);

// The first rule that `encoding` breaks, as a clause for an error message; "" when there is none.
std::string find_inconsistency(const TensorEncoding& encoding);

}  // namespace aimet::encodings

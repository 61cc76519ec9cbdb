// JSON form of what goes in and out of check, diff and convert between Python and C++. Internal to
// the library.
//
// Model facts: {name: {"shape": [int...] | null, "is_param": bool, "is_float": bool, "reader": str,
//   "channel_axis": int | null, "block_axis": int | null, "product_of": [str...]}}
// Options of convert: {"model": facts, "param_names": [str...] | null, "drops_unscaled": bool}
// Findings: [{"severity": "error" | "warning", "rule", "name", "message"}...]
// Differences: [{"name", "field", "left", "right"}...]

#pragma once

#include "aimet/encodings/encodings.h"

#include <string>
#include <string_view>
#include <vector>

namespace aimet::encodings {

ModelFacts read_model_facts(std::string_view text);
ConvertOptions read_convert_options(std::string_view text);
std::string findings_json(const std::vector<Finding>& findings);
std::string differences_json(const std::vector<Difference>& differences);

}  // namespace aimet::encodings

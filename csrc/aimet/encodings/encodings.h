// Read, check, compare, convert and write quantization encodings files. Free of torch: a deployment
// program can use this library alone.
//
//   using namespace aimet::encodings;
//   EncodingsDocument document = read_file("net.encodings");
//   for (const Finding& finding : check(document)) { ... }
//   write_file("net_1_0_0.encodings", convert(document, "1.0.0"), "1.0.0");
//
// Versions 0.4.0 and 0.5.0 can be read; 0.6.1, 1.0.0, 2.0.0 and 2.1.0 can be read and written.
// Files of the 0.x family may also carry no version and may name modules instead of tensors
// (AdaRound's parameter file, `_torch.encodings`). docs/encodings.md tells what each version holds.
//
// Every malformed input ends in a FormatError or an UnsupportedError, every failure of the file
// system in a FileError (errors.h). All functions may be called from several threads at once.

#pragma once

#include "aimet/encodings/document.h"
#include "aimet/encodings/errors.h"
#include "aimet/export.h"

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace aimet::encodings {

// Bounds on untrusted input. The largest real files (blockwise encodings of language models, one
// object per block in 0.6.1) take hundreds of megabytes, and a few times that in memory.
struct Limits {
  int64_t max_bytes = int64_t{1} << 30;
  int64_t max_memory = int64_t{1} << 33;  // bytes that the parsed text may take
  int max_depth = 32;                     // nesting of arrays and objects; the formats need 12
};

// --- files and text ---

// Reads the file at `path` (UTF-8, a regular file).
AIMET_API EncodingsDocument read_file(const std::string& path, const Limits& limits = {});

// Reads a file's text; `source` names it in errors.
AIMET_API EncodingsDocument parse(std::string_view text, const std::string& source,
                                  const Limits& limits = {});

// The text of a file of `version`, ending in a line feed. "" writes the 0.6.1 entries without a
// version and without empty sections. Numbers have as many digits as it takes to read back to the
// same double, hence to the same float32 when the scale was one. Throws UnsupportedError, naming
// the entry, for an entry that the version cannot express.
AIMET_API std::string serialize(const EncodingsDocument& document, std::string_view version);

// serialize() into a file, atomically: another process sees the old file or the new one, and a
// failure leaves the old one (or none) and no temporary file.
AIMET_API void write_file(const std::string& path, const EncodingsDocument& document,
                          std::string_view version);

// Versions in ascending order.
AIMET_API std::vector<std::string> readable_versions();
AIMET_API std::vector<std::string> writable_versions();

// --- what a model says about its tensors ---

// Known from an ONNX graph or a program; by tensor name.
struct TensorFacts {
  std::vector<int64_t> shape;  // -1 where a size is open
  bool has_shape = false;      // whether `shape` is known
  bool is_param = false;       // a constant of the model, not an activation
  bool is_float = true;        // of a floating-point type: only such tensors have encodings
  std::string reader;          // the operator that wants an encoding of it, "" when none does
  std::optional<int64_t> channel_axis;  // of a weight: output channels
  std::optional<int64_t> block_axis;    // of a weight: input channels
  // Of a bias: the input and the weight whose scales multiply to its own.
  std::vector<std::string> product_of;
};
using ModelFacts = std::map<std::string, TensorFacts>;

// --- check ---

enum class Severity { kError, kWarning };

struct Finding {
  Severity severity = Severity::kError;
  std::string rule;  // "missing", "surplus", "impossible", "role", "range" or "bias"
  std::string name;  // of the tensor
  std::string message;
};

// What is wrong with, or doubtful about, a valid document. With `model`: tensors that want an
// encoding and have none (missing), entries for tensors that the model does not have (surplus), and
// entries that do not fit their tensor (impossible: scales that no axis holds, integers, ...).
AIMET_API std::vector<Finding> check(const EncodingsDocument& document,
                                     const ModelFacts* model = nullptr);

// Throws FormatError where fields of `document` contradict each other (lengths, ranges, shapes).
// Readers and writers call it; `source` names the document in errors.
AIMET_API void validate(const EncodingsDocument& document, const std::string& source);

// --- compare ---

// Entries are told apart by `name`, followed by " input 0" and the like where the file names
// modules. `field` is "entry" when one side has none (`left` or `right` is then "").
struct Difference {
  std::string name;
  std::string field;
  std::string left;
  std::string right;
};

// Where two documents map numbers differently: formats, grids, granularity; with a relative
// `tolerance` on scales. What one of the versions cannot hold (axes, symmetry, whether a tensor is
// a parameter, the sign of the stored integers) is compared where both know it, or not at all.
AIMET_API std::vector<Difference> diff(const EncodingsDocument& left,
                                       const EncodingsDocument& right, double tolerance = 0.0);

// --- convert ---

struct ConvertOptions {
  // Needed from 2.x to an older version, which lists parameters apart: either what the model says,
  // or the names of its parameters.
  ModelFacts model;
  std::optional<std::set<std::string>> param_names;
  // To 2.x: leave out entries without a scale (16-bit floats, bits of what was not calibrated), for
  // which it has no form; a tensor without an entry is floating point there.
  bool drops_unscaled = false;
};

// A document whose text in `version` says what `document` says. Fills in axes and roles from the
// model where the old version lacks them and the new one wants them. Throws UnsupportedError,
// naming the entry, when one cannot be had or something would be lost.
AIMET_API EncodingsDocument convert(const EncodingsDocument& document, std::string_view version,
                                    const ConvertOptions& options = {});

// The sections of `document` besides its entries that `version` has no place for and a writer
// leaves out: "excluded_layers" and "quantizer_args" in 2.x.
AIMET_API std::vector<std::string> sections_without_place(const EncodingsDocument& document,
                                                          std::string_view version);

// --- JSON form in which a document passes between Python and C++; it loses nothing ---

AIMET_API std::string to_neutral_json(const EncodingsDocument& document);
AIMET_API EncodingsDocument from_neutral_json(std::string_view text, const Limits& limits = {});

}  // namespace aimet::encodings

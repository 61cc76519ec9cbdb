// Readers and writers of the JSON forms of neutral_model.h.

#include "aimet/encodings/neutral_model.h"

#include "aimet/encodings/json_view.h"
#include "aimet/encodings/sections.h"
#include "aimet/encodings/validate.h"

#include <limits>
#include <utility>

namespace aimet::encodings {
namespace {

constexpr int64_t kLargestSize = int64_t{1} << 48;

std::string read_string(const JsonView& view) {
  return view.string();
}

std::optional<int64_t> read_axis(const JsonView& facts, std::string_view key) {
  const JsonView view = facts.member(key);
  return view.is_null() ? std::nullopt : std::optional(view.integer(0, kMaxRank - 1));
}

TensorFacts read_facts(const JsonView& view) {
  view.expect_keys(
      {"shape", "is_param", "is_float", "reader", "channel_axis", "block_axis", "product_of"});
  TensorFacts facts;
  const JsonView shape = view.member("shape");
  facts.has_shape = !shape.is_null();
  if (facts.has_shape) {
    facts.shape = read_list<int64_t>(
        shape, [](const JsonView& size) { return size.integer(-1, kLargestSize); });
  }
  facts.is_param = view.member("is_param").boolean();
  facts.is_float = view.member("is_float").boolean();
  facts.reader = view.member("reader").string();
  facts.channel_axis = read_axis(view, "channel_axis");
  facts.block_axis = read_axis(view, "block_axis");
  facts.product_of = read_list<std::string>(view.member("product_of"), read_string);
  return facts;
}

ModelFacts read_model(const JsonView& view) {
  ModelFacts model;
  view.for_each_member([&](const std::string& name, const JsonView& facts) {
    model.emplace(name, read_facts(facts));
  });
  return model;
}

}  // namespace

ModelFacts read_model_facts(std::string_view text) {
  const std::string source = "model";
  const Json tree = parse_json(text, source, Limits());
  return read_model(JsonView(tree, source));
}

ConvertOptions read_convert_options(std::string_view text) {
  const std::string source = "options";
  const Json tree = parse_json(text, source, Limits());
  const JsonView root(tree, source);
  root.expect_keys({"model", "param_names", "drops_unscaled"});
  ConvertOptions options;
  options.model = read_model(root.member("model"));
  const JsonView names = root.member("param_names");
  if (!names.is_null()) {
    std::vector<std::string> list = read_list<std::string>(names, read_string);
    options.param_names.emplace(std::make_move_iterator(list.begin()),
                                std::make_move_iterator(list.end()));
  }
  options.drops_unscaled = root.member("drops_unscaled").boolean();
  return options;
}

std::string findings_json(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"severity", finding.severity == Severity::kError ? "error" : "warning"},
                    {"rule", finding.rule},
                    {"name", finding.name},
                    {"message", finding.message}});
  }
  return to_compact_text(list);
}

std::string differences_json(const std::vector<Difference>& differences) {
  Json list = Json::array();
  for (const Difference& difference : differences) {
    list.push_back({{"name", difference.name},
                    {"field", difference.field},
                    {"left", difference.left},
                    {"right", difference.right}});
  }
  return to_compact_text(list);
}

}  // namespace aimet::encodings

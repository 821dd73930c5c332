#include "fathom/server/sampling_schema.h"

#include <charconv>
#include <climits>

namespace fathom::server {
namespace {

void read_stops(Fields& fields, const SchemaLimits& limits, std::vector<std::string>& out) {
  const Json* stop = fields.find("stop");
  if (!stop) return;
  const Json list = stop->is_array() ? *stop : Json::array({*stop});
  if (list.size() > static_cast<size_t>(limits.max_stops)) {
    return fields.fail(
        "stop",
        fmt::format("'stop' has {} strings, at most {} are taken", list.size(), limits.max_stops)
    );
  }
  out.clear();
  for (const Json& item : list) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      return fields.fail(
          "stop",
          fmt::format(
              "'stop' must be a string or a list of strings, none empty, got {}", quoted(item)
          )
      );
    }
    out.push_back(item.get<std::string>());
  }
}

// {"token id": bias}; ids are keys, so they come as text.
void read_logit_bias(Fields& fields, const SchemaLimits& limits, plan::SamplingParams& out) {
  const Json* bias = fields.find("logit_bias");
  if (!bias) return;
  if (!bias->is_object() || bias->size() > static_cast<size_t>(limits.max_logit_bias)) {
    return fields.fail(
        "logit_bias",
        fmt::format(
            "'logit_bias' must be an object of at most {} token ids and biases, got {}",
            limits.max_logit_bias,
            quoted(*bias)
        )
    );
  }
  for (const auto& [key, value] : bias->items()) {
    plan::Token token = -1;
    const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), token);
    const bool is_id = failure == std::errc{} && end == key.data() + key.size() && token >= 0 &&
                       token < limits.vocabulary;
    const double weight = value.is_number() ? value.get<double>() : 1000.0;
    if (!is_id || !(weight >= -100.0 && weight <= 100.0)) {
      return fields.fail(
          "logit_bias",
          fmt::format(
              "'logit_bias' maps token ids below {} to biases from -100 to 100, got {}: {}",
              limits.vocabulary,
              quoted(Json(key)),
              quoted(value)
          )
      );
    }
    out.logit_bias.emplace_back(token, static_cast<float>(weight));
  }
}

void read_stream_options(Fields& fields, GenerationBody& out) {
  const Json* options = fields.find("stream_options");
  if (!options) return;
  Fields inner(*options, fields.pointer("stream_options"));
  inner.read("include_usage", out.include_usage);
  inner.read("continuous_usage_stats", out.continuous_usage);
  if (inner.failed()) fields.adopt(inner.error());
}

}  // namespace

void read_sampling(Fields& fields, const SchemaLimits& limits, plan::SamplingParams& out) {
  fields.read("temperature", out.temperature, 0.0, 100.0);
  // -1 is what SGLang's and vLLM's clients send for "off".
  fields.read("top_k", out.top_k, -1, INT_MAX);
  out.top_k = std::max(0, out.top_k);
  fields.read("top_p", out.top_p, 1e-6, 1.0);
  fields.read("min_p", out.min_p, 0.0, 1.0);
  fields.read("repetition_penalty", out.repetition_penalty, 1e-3, 100.0);
  fields.read("presence_penalty", out.presence_penalty, -2.0, 2.0);
  fields.read("frequency_penalty", out.frequency_penalty, -2.0, 2.0);
  fields.read("ignore_eos", out.ignore_eos);
  fields.read("skip_special_tokens", out.skip_special_tokens);
  fields.read("no_stop_trim", out.include_stop);
  fields.read("include_stop_str_in_output", out.include_stop);
  read_stops(fields, limits, out.stop);
  if (const Json* ids = fields.find("stop_token_ids")) {
    read_tokens(fields, "stop_token_ids", *ids, limits, out.stop_ids);
  }
  read_logit_bias(fields, limits, out);
}

void read_generation(Fields& fields, const SchemaLimits& limits, GenerationBody& out) {
  fields.read("model", out.model);
  fields.read("n", out.n, 1, limits.max_choices);
  fields.read("seed", out.seed);
  fields.read("priority", out.priority, INT_MIN, INT_MAX);
  fields.read("stream", out.stream);
  fields.read("return_token_ids", out.return_token_ids);
  fields.read("min_tokens", out.sampling.min_new_tokens, 0, INT_MAX);
  read_stream_options(fields, out);
  read_rids(fields, out.rids);
  read_cache_salt(fields, out.cache_salt);
  refuse_unsupported(fields);
  const plan::SamplingParams& sampling = out.sampling;
  if (sampling.max_new_tokens >= 0 && sampling.min_new_tokens > sampling.max_new_tokens) {
    fields.fail(
        "min_tokens",
        fmt::format(
            "'min_tokens' ({}) is above the limit of new tokens ({})",
            sampling.min_new_tokens,
            sampling.max_new_tokens
        )
    );
  }
}

bool read_tokens(
    Fields& fields,
    std::string_view name,
    const Json& list,
    const SchemaLimits& limits,
    std::vector<plan::Token>& out
) {
  if (!list.is_array()) {
    fields.fail(name, fmt::format("'{}' must be a list of token ids, got {}", name, quoted(list)));
    return false;
  }
  out.clear();
  out.reserve(list.size());
  for (const Json& item : list) {
    // Ids above int64's range read as negative, so both ends are covered.
    const int64_t id = item.is_number_integer() ? item.get<int64_t>() : -1;
    if (id < 0 || id >= limits.vocabulary) {
      fields.fail(
          name,
          fmt::format(
              "'{}' holds {}, not a token id from 0 to {}",
              name,
              quoted(item),
              limits.vocabulary - 1
          )
      );
      return false;
    }
    out.push_back(static_cast<plan::Token>(id));
  }
  return true;
}

void read_prompts(
    Fields& fields,
    std::string_view name,
    const SchemaLimits& limits,
    std::vector<Prompt>& out,
    bool& is_list
) {
  const Json* value = fields.find(name);
  if (!value) return fields.fail(name, fmt::format("'{}' is missing", name));
  const bool one =
      value->is_string() || (value->is_array() && !value->empty() && value->at(0).is_number());
  const Json list = one ? Json::array({*value}) : *value;
  if (!list.is_array() || list.empty()) {
    return fields.fail(
        name,
        fmt::format(
            "'{}' must be text, token ids or a list of either, got {}", name, quoted(*value)
        )
    );
  }
  if (list.size() > static_cast<size_t>(limits.max_prompts)) {
    return fields.fail(
        name,
        fmt::format(
            "'{}' holds {} prompts, at most {} are taken", name, list.size(), limits.max_prompts
        )
    );
  }
  is_list = !one;
  for (const Json& item : list) {
    if (item.is_string()) {
      out.emplace_back(item.get<std::string>());
      continue;
    }
    std::vector<plan::Token> tokens;
    if (!read_tokens(fields, name, item, limits, tokens)) return;
    out.emplace_back(std::move(tokens));
  }
}

void read_rids(Fields& fields, std::vector<std::string>& out) {
  constexpr size_t kLongest = 256;
  const Json* rid = fields.find("rid");
  if (!rid) return;
  const Json list = rid->is_array() ? *rid : Json::array({*rid});
  for (const Json& item : list) {
    const std::string id = item.is_string() ? item.get<std::string>() : "";
    if (id.empty() || id.size() > kLongest) {
      return fields.fail(
          "rid",
          fmt::format(
              "'rid' must be a string of 1 to {} bytes or a list of such, got {}",
              kLongest,
              quoted(item)
          )
      );
    }
    out.push_back(id);
  }
}

void read_cache_salt(Fields& fields, std::string& out) {
  std::string extra_key;
  fields.read("cache_salt", out);
  fields.read("extra_key", extra_key);
  // The length keeps ("a", "bc") apart from ("ab", "c").
  if (!extra_key.empty()) out = fmt::format("{}:{}{}", out.size(), out, extra_key);
}

void refuse_unsupported(Fields& fields) {
  for (const char* grammar :
       {"regex",
        "ebnf",
        "json_schema",
        "structural_tag",
        "guided_json",
        "guided_regex",
        "guided_grammar",
        "guided_choice"}) {
    fields.refuse(grammar, "constrained decoding is not available");
  }
  fields.refuse("stop_regex", "use 'stop' with the strings themselves");
  fields.refuse("lora_path", "adapters are not available");
  fields.refuse("session_params", "sessions are not available");
  fields.refuse("custom_logit_processor", "code from clients is not run");
  fields.refuse("input_embeds", "send text or token ids");
  fields.refuse("image_data", "this server takes text only");
}

}  // namespace fathom::server

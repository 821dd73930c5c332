// The bodies of /v1/completions, /generate and /v1/embeddings.
#include <climits>

#include "fathom/server/openai_schema.h"
#include "fathom/server/sampling_schema.h"

namespace fathom::server {
namespace {

void check_rids(Fields& fields, const CompletionBody& body) {
  const size_t rids = body.generation.rids.size();
  if (rids > 1 && rids != body.prompts.size()) {
    fields.fail("rid", fmt::format("'rid' lists {} ids for {} prompts", rids, body.prompts.size()));
  }
}

// /generate has its prompt in one of two fields.
void read_generate_prompt(Fields& fields, const SchemaLimits& limits, CompletionBody& out) {
  const bool text = fields.find("text") != nullptr;
  const bool ids = fields.find("input_ids") != nullptr;
  if (text == ids) {
    return fields.fail("text", "give the prompt in one of 'text' and 'input_ids'");
  }
  read_prompts(fields, text ? "text" : "input_ids", limits, out.prompts, out.is_list);
  for (const Prompt& prompt : out.prompts) {
    if (std::holds_alternative<std::string>(prompt) != text) {
      return fields.fail(
          text ? "text" : "input_ids",
          text ? "'text' must be text; token ids go into 'input_ids'"
               : "'input_ids' must be token ids; text goes into 'text'"
      );
    }
  }
}

void read_generate_sampling(Fields& fields, const SchemaLimits& limits, GenerationBody& out) {
  constexpr int kDefaultNewTokens = 128;  // SGLang's
  out.sampling.max_new_tokens = kDefaultNewTokens;
  const Json* params = fields.find("sampling_params");
  if (!params) return;
  Fields inner(*params, fields.pointer("sampling_params"));
  read_sampling(inner, limits, out.sampling);
  inner.read("max_new_tokens", out.sampling.max_new_tokens, 1, INT_MAX);
  inner.read("min_new_tokens", out.sampling.min_new_tokens, 0, out.sampling.max_new_tokens);
  inner.read("n", out.n, 1, limits.max_choices);
  inner.read("sampling_seed", out.seed);
  inner.read("seed", out.seed);
  refuse_unsupported(inner);
  if (inner.failed()) fields.adopt(inner.error());
}

void read_generate_logprobs(Fields& fields, const SchemaLimits& limits, plan::SamplingParams& out) {
  bool wanted = false;
  int top = 0;
  int start = -1;
  fields.read("return_logprob", wanted);
  fields.read("top_logprobs_num", top, 0, limits.max_logprobs);
  fields.read("logprob_start_len", start, -1, INT_MAX);
  if (start != -1) {
    fields.fail("logprob_start_len", "logprobs of the prompt are not available: only -1 is taken");
  }
  fields.refuse("token_ids_logprob", "use 'top_logprobs_num'");
  if (wanted) out.logprobs = top;
}

}  // namespace

Result<CompletionBody> parse_completion(const Json& body, const SchemaLimits& limits) {
  constexpr int kDefaultMaxTokens = 16;  // OpenAI's
  Fields fields(body, "");
  CompletionBody out;
  GenerationBody& generation = out.generation;
  generation.sampling = limits.defaults;
  generation.sampling.max_new_tokens = kDefaultMaxTokens;
  read_prompts(fields, "prompt", limits, out.prompts, out.is_list);
  read_sampling(fields, limits, generation.sampling);
  fields.read("max_tokens", generation.sampling.max_new_tokens, 1, INT_MAX);
  fields.read("logprobs", generation.sampling.logprobs, 0, limits.max_logprobs);
  fields.read("echo", out.echo);
  read_generation(fields, limits, generation);
  int best_of = 1;
  fields.read("best_of", best_of, 1, INT_MAX);
  if (best_of != 1) {
    fields.fail(
        "best_of", "'best_of' is not supported: ask for 'n' choices with 'logprobs' and choose"
    );
  }
  const Json* suffix = fields.find("suffix");
  if (suffix && !(suffix->is_string() && suffix->get_ref<const std::string&>().empty())) {
    fields.refuse("suffix", "text is only continued, not filled in");
  }
  if (out.echo && generation.sampling.logprobs >= 0) {
    fields.fail(
        "echo", "'echo' with 'logprobs' is not supported: logprobs of the prompt are not available"
    );
  }
  check_rids(fields, out);
  if (fields.failed()) return fields.error();
  return out;
}

Result<CompletionBody> parse_generate(const Json& body, const SchemaLimits& limits) {
  Fields fields(body, "");
  CompletionBody out;
  GenerationBody& generation = out.generation;
  generation.sampling = limits.defaults;
  read_generate_prompt(fields, limits, out);
  read_generate_sampling(fields, limits, generation);
  read_generate_logprobs(fields, limits, generation.sampling);
  fields.read("stream", generation.stream);
  fields.read("priority", generation.priority, INT_MIN, INT_MAX);
  read_rids(fields, generation.rids);
  read_cache_salt(fields, generation.cache_salt);
  refuse_unsupported(fields);
  bool hidden_states = false;
  fields.read("return_hidden_states", hidden_states);
  if (hidden_states) fields.refuse("return_hidden_states", "use /v1/embeddings");
  check_rids(fields, out);
  if (fields.failed()) return fields.error();
  return out;
}

Result<EmbeddingBody> parse_embedding(const Json& body, const SchemaLimits& limits) {
  Fields fields(body, "");
  EmbeddingBody out;
  bool is_list = false;
  fields.read("model", out.model);
  read_prompts(fields, "input", limits, out.inputs, is_list);
  std::string format = "float";
  fields.read("encoding_format", format);
  if (format != "float" && format != "base64") {
    fields.fail(
        "encoding_format",
        fmt::format("'encoding_format' must be 'float' or 'base64', got '{}'", format)
    );
  }
  out.base64 = format == "base64";
  fields.refuse("dimensions", "the whole vector is returned; cut it as the model's maker says");
  if (fields.failed()) return fields.error();
  return out;
}

}  // namespace fathom::server

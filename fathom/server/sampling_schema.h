// The fields that more than one body has: sampling, stops, prompts, routing.
#pragma once

#include <string_view>
#include <vector>

#include "fathom/server/fields.h"
#include "fathom/server/openai_schema.h"

namespace fathom::server {

// temperature .. logit_bias, ignore_eos and their kin, which OpenAI bodies and the sampling_params
// of /generate spell alike.
void read_sampling(Fields& fields, const SchemaLimits& limits, plan::SamplingParams& out);

// model, stream, stream_options, n, seed, rid, priority, cache_salt of an OpenAI body, after
// read_sampling's fields.
void read_generation(Fields& fields, const SchemaLimits& limits, GenerationBody& out);

// A token id list; false, with the error in `fields`, when it is not one.
bool read_tokens(
    Fields& fields,
    std::string_view name,
    const Json& list,
    const SchemaLimits& limits,
    std::vector<plan::Token>& out
);

// A string, a list of strings, a list of ids or a list of lists of ids. `is_list`: it was a list of
// prompts, even of one.
void read_prompts(
    Fields& fields,
    std::string_view name,
    const SchemaLimits& limits,
    std::vector<Prompt>& out,
    bool& is_list
);

void read_rids(Fields& fields, std::vector<std::string>& out);
// cache_salt and extra_key: two requests share cached pages only when both are equal.
void read_cache_salt(Fields& fields, std::string& out);
// What no body of ours takes: grammars, adapters, sessions.
void refuse_unsupported(Fields& fields);

}  // namespace fathom::server

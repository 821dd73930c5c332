#include "fathom/server/call_builder.h"

#include "fathom/server/clock.h"

namespace fathom::server {
namespace {

Result<void> check_length(
    const std::vector<plan::Token>& prompt, int context, std::string_view field
) {
  const auto length = static_cast<int64_t>(prompt.size());
  if (length == 0) return Error{"the prompt has no tokens", std::string(field)};
  if (length < context) return {};
  return Error{
      fmt::format(
          "the prompt has {} tokens and the model's context holds {}: it is {} too long, as one "
          "more is needed for an answer",
          length,
          context,
          length - context + 1
      ),
      std::string(field)};
}

// One name for each prompt: the client's own, numbered when one stands for several.
std::vector<std::string> request_names(
    const std::vector<std::string>& rids, const std::string& id, size_t prompts
) {
  if (prompts > 1 && rids.size() == prompts) return rids;
  const std::string& stem = rids.empty() ? id : rids[0];
  if (prompts == 1) return {stem};
  std::vector<std::string> names;
  for (size_t i = 0; i < prompts; ++i) names.push_back(fmt::format("{}_{}", stem, i));
  return names;
}

}  // namespace

Result<BuiltCall> build_call(
    Service& service,
    const GenerationBody& body,
    std::vector<std::vector<plan::Token>> prompts,
    std::string_view id_prefix,
    std::string_view field
) {
  const engine::Engine& engine = *service.engine();
  for (const auto& prompt : prompts) {
    if (auto fits = check_length(prompt, engine.context_length(), field); !fits.ok())
      return fits.error();
  }
  BuiltCall built;
  Call& call = built.call;
  call.id = body.rids.size() == 1
                ? body.rids[0]
                : fmt::format("{}{:016x}{:016x}", id_prefix, service.random(), service.random());
  call.model = service.model_name();
  call.created = unix_seconds();
  call.started_seconds = steady_seconds();
  call.tokenizer = &engine.tokenizer();
  call.rids = request_names(body.rids, call.id, prompts.size());
  call.prompts = std::move(prompts);
  call.n = body.n;
  call.logprobs = body.sampling.logprobs >= 0;
  call.stream = body.stream;
  call.include_usage = body.include_usage;
  call.continuous_usage = body.continuous_usage;
  call.return_token_ids = body.return_token_ids;
  built.form.sampling = body.sampling;
  built.form.sampling.seed = body.seed ? static_cast<uint64_t>(*body.seed) : service.random();
  built.form.priority = body.priority;
  built.form.cache_salt = body.cache_salt;
  return built;
}

Reply start_call(Service& service, const AnswerFormat& format, BuiltCall built) {
  return Generation::start(
      *service.engine(),
      service.metrics(),
      format,
      std::move(built.call),
      built.form,
      service.config().limits.outbox_items
  );
}

}  // namespace fathom::server

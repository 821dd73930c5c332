// What operators and routers ask: health, metrics, facts, cache flush, aborts.
#include "fathom/server/clock.h"
#include "fathom/server/errors.h"
#include "fathom/server/fields.h"
#include "fathom/server/json_text.h"
#include "fathom/server/routes.h"

namespace fathom::server {
namespace {

constexpr std::string_view kVersion = "0.1.0";

HttpResponse json_response(const Json& body) {
  return {.body = dump(body)};
}

Json load_json(const engine::Stats& stats) {
  const auto share = [](int64_t part, int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  return {
      {"dp_rank", 0},
      {"num_running_reqs", stats.running},
      {"num_waiting_reqs", stats.waiting},
      {"num_total_reqs", stats.running + stats.waiting},
      {"num_used_tokens", stats.kv_tokens_used},
      {"max_total_num_tokens", stats.kv_tokens_total},
      {"token_usage", share(stats.kv_tokens_used, stats.kv_tokens_total)},
      {"gen_throughput", stats.generation_tokens_per_second},
      {"cache_hit_rate", share(stats.cached_tokens, stats.prompt_tokens)},
      {"avg_spec_accept_length", stats.accept_length},
      {"avg_spec_accept_rate", stats.accept_rate}};
}

}  // namespace

Reply health(Service& service, const HttpRequest&) {
  const Phase phase = service.phase();
  if (!phase.ready) return unavailable(phase.name, phase.percent);
  return json_response({{"status", "ok"}, {"phase", phase.name}});
}

Reply alive(Service&, const HttpRequest&) {
  return json_response({{"status", "ok"}});
}

Reply metrics(Service& service, const HttpRequest&) {
  return HttpResponse{
      .body = service.metrics().render(service.engine(), service.model_name()),
      .content_type = "text/plain; version=0.0.4; charset=utf-8",
  };
}

Reply server_info(Service& service, const HttpRequest&) {
  const engine::Engine& engine = *service.engine();
  const engine::Config& config = engine.config();
  Json body = {
      {"version", kVersion},
      {"status", service.phase().name},
      {"model_path", config.model_path},
      {"served_model_name", service.model_name()},
      {"host", service.config().host},
      {"port", service.config().port},
      {"device", config.device},
      {"page_size", config.page_size},
      {"context_length", engine.context_length()},
      {"max_running_requests", config.max_running_requests},
      {"max_queued_requests", config.max_queued_requests},
      {"chunked_prefill_size", config.chunked_prefill_size},
      {"schedule_policy", config.schedule_policy},
      {"random_seed", config.random_seed},
      {"tp_size", 1},
      {"dp_size", 1}};
  const engine::Stats stats = engine.stats();
  body["max_total_num_tokens"] = stats.kv_tokens_total;
  body["internal_states"] = Json::array({load_json(stats)});
  body["engine"] = engine.info();
  return json_response(body);
}

Reply model_info(Service& service, const HttpRequest&) {
  const engine::Config& config = service.engine()->config();
  return json_response({
      {"model_path", config.model_path},
      {"tokenizer_path", config.tokenizer_path.empty() ? config.model_path : config.tokenizer_path},
      {"served_model_name", service.model_name()},
      {"is_generation", true},
      {"weight_version", "default"},
      {"preferred_sampling_params", nullptr},
      {"max_context_length", service.engine()->context_length()},
  });
}

Reply loads(Service& service, const HttpRequest&) {
  const Json load = load_json(service.engine()->stats());
  return json_response({
      {"timestamp", unix_seconds()},
      {"version", kVersion},
      {"dp_rank_count", 1},
      {"loads", Json::array({load})},
      {"aggregate", load},
  });
}

Reply version(Service&, const HttpRequest&) {
  return json_response({{"version", kVersion}});
}

Reply flush_cache(Service& service, const HttpRequest&) {
  if (!service.engine()->flush_cache()) {
    return error_response(400, "the cache is flushed only while no request runs", "busy");
  }
  return json_response({{"success", true}});
}

Reply abort_request(Service& service, const HttpRequest& request) {
  auto json = parse_body(service, request);
  if (!json.ok()) return bad_request(json.error(), "invalid_json");
  Fields fields(*json, "");
  std::string rid;
  bool all = false;
  fields.read("rid", rid);
  fields.read("abort_all", all);
  if (!fields.failed() && rid.empty() && !all)
    fields.fail("rid", "give 'rid', or 'abort_all': true");
  if (fields.failed()) return bad_request(fields.error());
  if (all) {
    service.engine()->cancel_all();
  } else {
    service.engine()->cancel(rid);
  }
  return json_response({{"success", true}});
}

}  // namespace fathom::server

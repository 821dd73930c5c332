// The HTTP server on loopback before a fake engine: framing, limits, errors, disconnects, drain.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "fathom/server/server.h"
#include "tests/server/fake_engine.h"
#include "tests/server/raw_client.h"

namespace fathom::server {
namespace {

using fathom::testing::FakeEngine;
using fathom::testing::FakeOptions;
using fathom::testing::get;
using fathom::testing::post;
using fathom::testing::RawClient;
using fathom::testing::RawResponse;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr milliseconds kSoon{10000};

class ProtocolTest : public ::testing::Test {
 protected:
  void start(FakeOptions options = {}) {
    engine_ = std::make_unique<FakeEngine>(options);
    listen();
    server_->service().attach(*engine_);
  }

  void listen() {
    config_.port = 0;
    config_.threads = 2;
    auto server = Server::listen(config_);
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(*server);
  }

  RawResponse ask(const std::string& request) {
    RawClient client(server_->port());
    client.send(request);
    return client.read();
  }

  Json ask_json(const std::string& request, int status = 200) {
    const RawResponse response = ask(request);
    EXPECT_EQ(response.status, status) << response.body;
    auto json = parse_json(response.body, "response");
    return json.ok() ? *json : Json();
  }

  // The error object of a request that must be refused.
  Json refusal(const std::string& request, int status) {
    const Json body = ask_json(request, status);
    EXPECT_TRUE(body.contains("error")) << body;
    return body.value("error", Json::object());
  }

  ServerConfig config_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Server> server_;
};

std::string chat(std::string_view more = "", std::string_view text = "hello") {
  return post(
      "/v1/chat/completions",
      fmt::format(
          R"({{"messages":[{{"role":"user","content":"{}"}}],"temperature":0,"max_tokens":24{}}})",
          text,
          more
      )
  );
}

std::vector<Json> events(std::string_view body) {
  std::vector<Json> out;
  while (!body.empty()) {
    const size_t end = body.find("\n\n");
    EXPECT_NE(end, std::string_view::npos) << "an event without its end: " << body;
    if (end == std::string_view::npos) break;
    const std::string_view event = body.substr(0, end);
    EXPECT_TRUE(event.starts_with("data: ")) << event;
    EXPECT_EQ(event.find('\n'), std::string_view::npos) << event;
    out.push_back(event == "data: [DONE]" ? Json("[DONE]") : Json::parse(event.substr(6)));
    body.remove_prefix(end + 2);
  }
  return out;
}

TEST_F(ProtocolTest, StreamedTextIsTheUnstreamedText) {
  start();
  const Json whole = ask_json(chat());
  const RawResponse streamed = ask(chat(R"(,"stream":true)"));
  EXPECT_EQ(streamed.headers.at("content-type"), "text/event-stream");
  const std::vector<Json> parts = events(streamed.body);
  std::string text;
  for (const Json& part : parts) {
    if (part.is_object()) text += part["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
  EXPECT_THAT(text, HasSubstr("é"));
  EXPECT_EQ(parts.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(parts.back(), "[DONE]");
  EXPECT_EQ(parts[parts.size() - 2]["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 24);
}

TEST_F(ProtocolTest, UsageEventComesOnlyWhenAskedFor) {
  start();
  const auto plain = events(ask(chat(R"(,"stream":true)")).body);
  for (const Json& part : plain) EXPECT_FALSE(part.contains("usage")) << part;
  const auto with =
      events(ask(chat(R"(,"stream":true,"stream_options":{"include_usage":true})")).body);
  const Json& last = with[with.size() - 2];
  EXPECT_TRUE(last["choices"].empty());
  EXPECT_EQ(last["usage"]["completion_tokens"], 24);
  EXPECT_EQ(with[0]["usage"], nullptr);
}

TEST_F(ProtocolTest, SeveralChoicesStreamTheirOwnText) {
  start();
  const Json whole = ask_json(chat(R"(,"n":4)"));
  const auto parts = events(ask(chat(R"(,"n":4,"stream":true)")).body);
  std::array<std::string, 4> texts;
  for (const Json& part : parts) {
    if (!part.is_object()) continue;
    const Json& choice = part["choices"][0];
    texts[choice["index"].get<size_t>()] += choice["delta"].value("content", "");
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(texts[i], whole["choices"][i]["message"]["content"]);
  EXPECT_NE(texts[0], texts[1]);
}

TEST_F(ProtocolTest, MalformedJsonIs400WithNestedError) {
  start();
  for (const char* body : {"", "{", "[1", "nonsense", "{\"messages\":[}", "\xff\xfe"}) {
    const Json error = refusal(post("/v1/chat/completions", body), 400);
    EXPECT_EQ(error["type"], "invalid_request_error") << body;
    EXPECT_EQ(error["code"], "invalid_json") << body;
  }
  const std::string deep = "{\"messages\":" + std::string(100000, '[');
  refusal(post("/v1/chat/completions", deep), 400);
}

TEST_F(ProtocolTest, WrongFieldsAreNamedByPointer) {
  start();
  const std::pair<const char*, const char*> cases[] = {
      {R"({"messages":"x"})", "/messages"},
      {R"({"messages":[]})", "/messages"},
      {R"({"messages":[1]})", "/messages/0"},
      {R"({"messages":[{"content":"x"}]})", "/messages/0/role"},
      {R"({"messages":[{"role":"user"}]})", "/messages/0/content"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})",
       "/messages/0/content/0/type"},
      {R"({"messages":[{"role":"user","content":"x"}],"temperature":"hot"})", "/temperature"},
      {R"({"messages":[{"role":"user","content":"x"}],"temperature":-1})", "/temperature"},
      {R"({"messages":[{"role":"user","content":"x"}],"n":0})", "/n"},
      {R"({"messages":[{"role":"user","content":"x"}],"n":99999999999999999999})", "/n"},
      {R"({"messages":[{"role":"user","content":"x"}],"stop":[""]})", "/stop"},
      {R"({"messages":[{"role":"user","content":"x"}],"logit_bias":{"x":1}})", "/logit_bias"},
      {R"({"messages":[{"role":"user","content":"x"}],"stream_options":{"include_usage":1}})",
       "/stream_options/include_usage"},
      {R"({"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_object"}})",
       "/response_format"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]})",
       "/tools/0/function"},
      {R"({"messages":[{"role":"user","content":"x"}],"top_logprobs":3})", "/top_logprobs"},
      {R"([])", ""},
  };
  for (const auto& [body, pointer] : cases) {
    const Json error = refusal(post("/v1/chat/completions", body), 400);
    EXPECT_EQ(error["param"], *pointer ? Json(pointer) : Json(nullptr)) << body << error;
  }
}

TEST_F(ProtocolTest, UnknownModelIs404ThatNamesTheServedOne) {
  start();
  const Json error = refusal(chat(R"(,"model":"gpt-9")"), 404);
  EXPECT_EQ(error["code"], "model_not_found");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("fake-model"));
  EXPECT_EQ(ask(chat(R"(,"model":"fake-model")")).status, 200);
  EXPECT_EQ(ask(get("/v1/models/fake%2Dmodel")).status, 200);
  refusal(get("/v1/models/other"), 404);
}

TEST_F(ProtocolTest, LongPromptIs400WithTheNumbers) {
  start({.context_length = 100});
  const Json error = refusal(chat("", std::string(200, 'x')), 400);
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("100"));
  EXPECT_EQ(
      refusal(chat(R"(,"max_completion_tokens":90)"), 400)["code"], "context_length_exceeded"
  );
}

TEST_F(ProtocolTest, UnknownRouteAndMethod) {
  start();
  EXPECT_EQ(refusal(get("/nothing"), 404)["code"], "route_not_found");
  const RawResponse wrong = ask(get("/v1/chat/completions"));
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
}

TEST_F(ProtocolTest, FullQueueIs429WithRetryAfter) {
  start({.max_queued_requests = 0});
  const RawResponse response = ask(chat());
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers.at("retry-after"), "2");
}

TEST_F(ProtocolTest, WithoutAnEngineEverythingButLivenessIs503WithThePhase) {
  listen();
  server_->service().set_phase("load_weight", 37);
  const Json error = refusal(get("/health"), 503);
  EXPECT_EQ(error["phase"], "load_weight");
  EXPECT_EQ(error["percent"], 37);
  refusal(chat(), 503);
  EXPECT_EQ(ask(get("/livez")).status, 200);
  EXPECT_EQ(ask(get("/metrics")).status, 200);
}

TEST_F(ProtocolTest, KeysAreAsked) {
  config_.api_key = "secret";
  config_.admin_api_key = "master";
  start();
  EXPECT_EQ(refusal(get("/v1/models"), 401)["code"], "invalid_api_key");
  refusal(get("/v1/models", "Authorization: Bearer secre\r\n"), 401);
  refusal(get("/v1/models", "Authorization: Bearer secrets\r\n"), 401);
  refusal(get("/v1/models", "Authorization: Bearer \r\n"), 401);
  EXPECT_EQ(ask(get("/v1/models", "Authorization: Bearer secret\r\n")).status, 200);
  EXPECT_EQ(ask(get("/v1/models", "Authorization: Bearer master\r\n")).status, 200);
  refusal(post("/flush_cache", "", "Authorization: Bearer secret\r\n"), 401);
  EXPECT_EQ(ask(post("/flush_cache", "", "Authorization: Bearer master\r\n")).status, 200);
  EXPECT_EQ(ask(get("/health")).status, 200);
}

TEST_F(ProtocolTest, LargeBodyIs413AndLargeHeader431) {
  config_.limits.body_bytes = 1000;
  config_.limits.header_bytes = 2000;
  start();
  EXPECT_EQ(
      refusal(post("/v1/chat/completions", std::string(5000, ' ')), 413)["code"], "body_too_large"
  );
  refusal("POST /generate HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413);
  refusal(get("/health", "X-Big: " + std::string(5000, 'x') + "\r\n"), 431);
  // Chunked bodies are counted as they come.
  std::string chunked = "POST /generate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 30; ++i) chunked += "64\r\n" + std::string(100, ' ') + "\r\n";
  refusal(chunked + "0\r\n\r\n", 413);
}

TEST_F(ProtocolTest, WhatIsNoHttpIs400OrClosed) {
  start();
  EXPECT_EQ(ask("NONSENSE\r\n\r\n").status, 400);
  EXPECT_EQ(ask("GET /health HTTP/9.9\r\n\r\n").status, 400);
  EXPECT_EQ(ask("POST /generate HTTP/1.1\r\nContent-Length: -5\r\n\r\n").status, 400);
  RawClient silent(server_->port());
  silent.send("GET /hea");
  silent.reset();
  EXPECT_EQ(ask(get("/health")).status, 200);
}

TEST_F(ProtocolTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  RawClient client(server_->port());
  client.send(chat(R"(,"stream":true)") + get("/nothing") + chat() + get("/health"));
  EXPECT_EQ(client.read().status, 200);
  EXPECT_EQ(client.read().status, 404);
  EXPECT_THAT(client.read().body, HasSubstr("chat.completion"));
  EXPECT_THAT(client.read().body, HasSubstr("ready"));
}

TEST_F(ProtocolTest, Http10StreamsEndWithTheConnection) {
  start();
  std::string request = chat(R"(,"stream":true)");
  request.replace(request.find("HTTP/1.1"), 8, "HTTP/1.0");
  const RawResponse response = ask(request);
  EXPECT_EQ(response.headers.count("transfer-encoding"), 0u);
  EXPECT_THAT(response.body, HasSubstr("data: [DONE]\n\n"));
}

TEST_F(ProtocolTest, ExpectContinueIsAnswered) {
  start();
  RawClient client(server_->port());
  const std::string request = chat();
  const size_t body = request.find("\r\n\r\n") + 4;
  client.send(request.substr(0, body - 2) + "Expect: 100-continue\r\n\r\n");
  EXPECT_THAT(client.read_until("\r\n\r\n"), HasSubstr("100 Continue"));
  client.send(request.substr(body));
  EXPECT_THAT(client.read_until("chat.completion"), HasSubstr("HTTP/1.1 200 OK"));
}

TEST_F(ProtocolTest, SlowHeadsAndIdleConnectionsAreClosed) {
  config_.limits.head_timeout = std::chrono::seconds(1);
  config_.limits.body_timeout = std::chrono::seconds(1);
  start();
  RawClient head(server_->port()), body(server_->port());
  head.send("POST /generate HT");
  body.send("POST /generate HTTP/1.1\r\nContent-Length: 50\r\n\r\n{");
  EXPECT_TRUE(head.closed_within(kSoon));
  EXPECT_TRUE(body.closed_within(kSoon));
}

TEST_F(ProtocolTest, ConnectionsAboveTheLimitAreToldSo) {
  config_.limits.connections = 2;
  start();
  RawClient first(server_->port()), second(server_->port());
  first.send(get("/health"));
  EXPECT_EQ(first.read().status, 200);
  second.send(get("/health"));
  EXPECT_EQ(second.read().status, 200);
  const RawResponse third = ask(get("/health"));
  EXPECT_EQ(third.status, 429);
  EXPECT_EQ(third.headers.count("retry-after"), 1u);
}

TEST_F(ProtocolTest, AClientThatLeavesIsCancelled) {
  start();
  for (const char* stream : {"", R"(,"stream":true)"}) {
    for (const bool reset : {false, true}) {
      auto client = std::make_unique<RawClient>(server_->port());
      client->send(chat(stream, "[hang]"));
      while (engine_->stats().running == 0) std::this_thread::sleep_for(milliseconds(1));
      if (reset) client->reset();
      client.reset();
      EXPECT_TRUE(engine_->wait_until_idle(kSoon)) << stream << reset;
    }
  }
  EXPECT_EQ(server_->service().metrics().clients_gone.load(), 4);
}

TEST_F(ProtocolTest, AClientThatLeavesAfterPipeliningIsCancelledToo) {
  start();
  auto client = std::make_unique<RawClient>(server_->port());
  client->send(chat("", "[hang]") + get("/health"));
  while (engine_->stats().running == 0) std::this_thread::sleep_for(milliseconds(1));
  client.reset();
  EXPECT_TRUE(engine_->wait_until_idle(kSoon));
}

TEST_F(ProtocolTest, AClientThatDoesNotReadLosesOnlyItsRequest) {
  config_.limits.write_timeout = std::chrono::seconds(1);
  start({.step = std::chrono::microseconds(0), .context_length = 100'000'000});
  RawClient deaf(server_->port());
  deaf.send(post("/v1/completions", R"({"prompt":"x","stream":true,"max_tokens":50000000,"n":32})")
  );
  EXPECT_TRUE(deaf.read_until("data: ").find("200 OK") != std::string::npos);
  EXPECT_TRUE(engine_->wait_until_idle(std::chrono::seconds(60)));
  EXPECT_EQ(ask(chat()).status, 200);
}

TEST_F(ProtocolTest, AFailedRequestIs500AndAStreamedOneAnErrorEvent) {
  start();
  EXPECT_EQ(refusal(chat("", "[fail]"), 500)["code"], "generation_failed");
  const auto parts = events(ask(chat(R"(,"stream":true)", "[fail]")).body);
  ASSERT_GE(parts.size(), 2u);
  EXPECT_THAT(parts[parts.size() - 2]["error"]["message"].get<std::string>(), HasSubstr("failure"));
}

TEST_F(ProtocolTest, AbortByNameEndsTheRequest) {
  start();
  RawClient client(server_->port());
  client.send(chat(R"(,"rid":"mine")", "[hang]"));
  while (engine_->stats().running == 0) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(ask(post("/flush_cache", "")).status, 400);
  EXPECT_EQ(ask(post("/abort_request", R"({"rid":"mine"})")).status, 200);
  const RawResponse response = client.read();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.body, HasSubstr(R"("finish_reason":"abort")"));
  refusal(post("/abort_request", "{}"), 400);
}

TEST_F(ProtocolTest, DrainTurnsReadinessOffAndLetsAcceptedRequestsFinish) {
  start({.step = milliseconds(20)});
  RawClient client(server_->port());
  client.send(chat());
  while (engine_->stats().running == 0) std::this_thread::sleep_for(milliseconds(1));
  server_->begin_drain();
  EXPECT_EQ(refusal(get("/health"), 503)["phase"], "draining");
  std::thread drain([this] { engine_->drain(kSoon); });
  const RawResponse response = client.read();
  drain.join();
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("connection"), "keep-alive");  // begun before the drain
  EXPECT_EQ(refusal(chat(), 503)["phase"], "draining");
  server_->stop(kSoon);
}

TEST_F(ProtocolTest, ParametersReachTheEngine) {
  start();
  ask_json(chat(
      R"(,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"repetition_penalty":1.1,"presence_penalty":0.2,)"
      R"("frequency_penalty":0.3,"seed":-1,"stop":["zzz","yyy"],"stop_token_ids":[7],"logit_bias":{"5":-2.5},)"
      R"("min_tokens":2,"ignore_eos":true,"skip_special_tokens":false,"no_stop_trim":true,"priority":3,)"
      R"("cache_salt":"s","logprobs":true,"top_logprobs":2)"
  ));
  const auto request = engine_->last_request();
  const plan::SamplingParams& sampling = request->sampling;
  EXPECT_FLOAT_EQ(sampling.top_p, 0.9f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_FLOAT_EQ(sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(sampling.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(sampling.presence_penalty, 0.2f);
  EXPECT_FLOAT_EQ(sampling.frequency_penalty, 0.3f);
  EXPECT_EQ(sampling.seed, UINT64_MAX);
  EXPECT_THAT(sampling.stop, ::testing::ElementsAre("zzz", "yyy"));
  EXPECT_THAT(sampling.stop_ids, ::testing::ElementsAre(7));
  EXPECT_THAT(sampling.logit_bias, ::testing::ElementsAre(std::pair(5, -2.5f)));
  EXPECT_EQ(sampling.min_new_tokens, 2);
  EXPECT_EQ(sampling.max_new_tokens, 24);
  EXPECT_TRUE(sampling.ignore_eos && !sampling.skip_special_tokens && sampling.include_stop);
  EXPECT_EQ(sampling.logprobs, 2);
  EXPECT_EQ(request->priority, 3);
  EXPECT_EQ(request->cache_salt, "s");
}

TEST_F(ProtocolTest, NativeRoutesAnswerInSglangsForm) {
  start();
  const Json one = ask_json(post(
      "/generate",
      R"({"text":"hi","sampling_params":{"temperature":0,"max_new_tokens":8},"return_logprob":true})"
  ));
  EXPECT_EQ(one["meta_info"]["completion_tokens"], 8);
  EXPECT_EQ(one["meta_info"]["finish_reason"]["type"], "length");
  EXPECT_EQ(one["meta_info"]["output_token_logprobs"].size(), 8u);
  const auto parts = events(
      ask(post(
              "/generate",
              R"({"text":"hi","stream":true,"sampling_params":{"temperature":0,"max_new_tokens":8}})"
          ))
          .body
  );
  EXPECT_EQ(parts[parts.size() - 2]["text"], one["text"]);
  const Json many = ask_json(post(
      "/generate",
      R"({"input_ids":[[1,2],[3]],"rid":["a","b"],"sampling_params":{"max_new_tokens":2}})"
  ));
  ASSERT_EQ(many.size(), 2u);
  EXPECT_EQ(many[1]["meta_info"]["id"], "b");
  EXPECT_EQ(
      refusal(post("/generate", R"({"sampling_params":{"top_p":7},"text":"x"})"), 400)["param"],
      "/sampling_params/top_p"
  );
  EXPECT_EQ(refusal(post("/generate", R"({"input_ids":[999999]})"), 400)["param"], "/input_ids");
  const Json tokens = ask_json(post("/tokenize", R"({"prompt":"h\u00e9"})"));
  EXPECT_EQ(tokens["count"], 3);
  EXPECT_EQ(
      ask_json(post("/detokenize", fmt::format(R"({{"tokens":{}}})", tokens["tokens"].dump()))
      )["text"],
      "hé"
  );
  EXPECT_EQ(ask(get("/health_generate")).status, 200);
}

TEST_F(ProtocolTest, MetricsCountWhatHappened) {
  start();
  ask(chat());
  refusal(get("/nothing"), 404);
  const std::string text = ask(get("/metrics")).body;
  EXPECT_THAT(text, HasSubstr("# TYPE sglang:time_to_first_token_seconds histogram"));
  EXPECT_THAT(
      text, ::testing::ContainsRegex("sglang:time_to_first_token_seconds_count\\{[^}]*\\} 1\n")
  );
  EXPECT_THAT(
      text, ::testing::ContainsRegex("sglang:inter_token_latency_seconds_count\\{[^}]*\\} 23\n")
  );
  EXPECT_THAT(text, HasSubstr("model_name=\"fake-model\""));
  EXPECT_THAT(text, ::testing::ContainsRegex("sglang:spec_accept_length\\{[^}]*\\} 2.5\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("sglang:spec_accept_rate\\{[^}]*\\} 0.75\n"));
  const Json state = ask_json(get("/server_info"))["internal_states"][0];
  EXPECT_EQ(state["avg_spec_accept_length"], 2.5);
  EXPECT_EQ(state["avg_spec_accept_rate"], 0.75);
  EXPECT_THAT(
      text, ::testing::ContainsRegex("fathom:http_responses_total\\{[^}]*status=\"404\"\\} 1\n")
  );
}

TEST_F(ProtocolTest, EmbeddingsComeAsFloatsOrBase64) {
  start();
  const Json floats = ask_json(post("/v1/embeddings", R"({"input":["a","b"]})"));
  EXPECT_EQ(floats["data"][1]["embedding"], Json({0.5, -1.0, 0.25}));
  const Json coded =
      ask_json(post("/v1/embeddings", R"({"input":"a","encoding_format":"base64"})"));
  EXPECT_EQ(coded["data"][0]["embedding"], "AAAAPwAAgL8AAIA+");
}

TEST_F(ProtocolTest, ChatNeedsATemplateAndContinuesMessages) {
  start({.has_chat_template = false});
  EXPECT_THAT(refusal(chat(), 400)["message"].get<std::string>(), HasSubstr("no chat template"));
  server_.reset();
  start();
  ask_json(post(
      "/v1/chat/completions",
      R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"so far "}],)"
      R"("continue_final_message":true,"max_tokens":1})"
  ));
  const std::string prompt = engine_->tokenizer().decode(engine_->last_request()->prompt, false);
  EXPECT_EQ(prompt, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nso far ");
}

TEST_F(ProtocolTest, ManyClientsAtOnceGetTheirOwnAnswers) {
  start({.step = std::chrono::microseconds(50)});
  const Json expected = ask_json(chat("", "client 0"));
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      RawClient client(server_->port());
      for (int round = 0; round < 5; ++round) {
        client.send(chat("", fmt::format("client {}", i % 2)));
        auto json = parse_json(client.read().body, "response");
        if (!json.ok()) continue;
        const bool same = (*json)["choices"] == expected["choices"];
        right += same == (i % 2 == 0);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right.load(), 80);
  EXPECT_TRUE(engine_->wait_until_idle(kSoon));
}

}  // namespace
}  // namespace fathom::server

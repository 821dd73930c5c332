"""What clients of OpenAI's API rely on, through OpenAI's own client. Holds for any engine behind the
server: nothing here knows what a model answers, only how answers relate to each other."""
import concurrent.futures
import threading
import time

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]


def chat(client, model, **more):
    options = {"temperature": 0, "max_tokens": 24, "messages": MESSAGES} | more
    return client.chat.completions.create(model=model, **options)


def joined(stream):
    """The parts of a stream by choice: texts, finish reasons, usage."""
    texts, reasons, usage = {}, {}, None
    for event in stream:
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                assert choice.index not in reasons, "a choice may finish once"
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def test_models(client, model):
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no-such-model")
    assert refused.value.code == "model_not_found"
    assert model in refused.value.message


def test_chat(client, model):
    answer = chat(client, model)
    assert answer.object == "chat.completion"
    assert answer.model == model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_chat_stream_equals_whole(client, model):
    whole = chat(client, model)
    texts, reasons, usage = joined(chat(client, model, stream=True, stream_options={"include_usage": True}))
    assert texts[0] == whole.choices[0].message.content
    assert reasons[0] == whole.choices[0].finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_chat_stream_without_usage(client, model):
    _, _, usage = joined(chat(client, model, stream=True))
    assert usage is None


def test_content_parts_equal_text(client, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    assert chat(client, model, messages=parts).choices[0].message.content == chat(client, model).choices[0].message.content


def test_several_choices(client, model):
    options = {"n": 4, "temperature": 2.0, "seed": 5}
    whole = chat(client, model, **options)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1
    streamed, reasons, _ = joined(chat(client, model, stream=True, **options))
    assert [streamed[i] for i in range(4)] == texts
    assert len(reasons) == 4


def test_seed(client, model):
    def text(seed):
        return chat(client, model, temperature=2.0, seed=seed).choices[0].message.content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(6)}) > 1


def test_seed_beside_other_requests(client, model):
    alone = chat(client, model, temperature=1.0, seed=11).choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(
            lambda seed: chat(client, model, temperature=1.0, seed=seed).choices[0].message.content,
            [11, 1, 11, 2, 11, 3, 11, 4]))
    assert texts[::2] == [alone] * 4


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string(client, model, stream):
    text = chat(client, model).choices[0].message.content
    stop = text[len(text) // 2:len(text) // 2 + 3]
    answer = chat(client, model, stop=[stop, "never written"], stream=stream)
    if stream:
        texts, reasons, _ = joined(answer)
        got, reason = texts[0], reasons[0]
    else:
        got, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert got == text[:text.index(stop)]
    assert reason == "stop"


def test_stop_string_kept(client, model):
    text = chat(client, model).choices[0].message.content
    stop = text[4:7]
    answer = chat(client, model, stop=stop, extra_body={"no_stop_trim": True})
    assert answer.choices[0].message.content == text[:text.index(stop) + len(stop)]


def test_chat_logprobs(client, model):
    answer = chat(client, model, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        likeliest = [top.logprob for top in entry.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
    spelled = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="ignore")
    assert spelled.startswith(answer.choices[0].message.content[:5])


def test_chat_logprobs_streamed(client, model):
    whole = chat(client, model, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    streamed = []
    for event in chat(client, model, logprobs=True, top_logprobs=1, stream=True):
        if event.choices[0].logprobs:
            streamed += event.choices[0].logprobs.content
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]


def test_completion(client, model):
    whole = client.completions.create(model=model, prompt="The sea", max_tokens=12, temperature=0)
    text = "".join(
        event.choices[0].text
        for event in client.completions.create(model=model, prompt="The sea", max_tokens=12, temperature=0, stream=True))
    assert whole.object == "text_completion"
    assert text == whole.choices[0].text
    assert whole.usage.completion_tokens <= 12


def test_completion_default_is_16_tokens(client, model):
    answer = client.completions.create(model=model, prompt="The sea", temperature=0, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16


def test_completion_lists_and_ids(client, model, raw):
    prompts = ["The sea", "A mountain"]
    both = client.completions.create(model=model, prompt=prompts, max_tokens=8, temperature=0, n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    one = client.completions.create(model=model, prompt=prompts[1], max_tokens=8, temperature=0)
    assert both.choices[2].text == one.choices[0].text
    ids = raw.post("/tokenize", json={"prompt": prompts[1]}).json()["tokens"]
    by_ids = client.completions.create(model=model, prompt=ids, max_tokens=8, temperature=0)
    assert by_ids.choices[0].text == one.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_completion_echo(client, model, stream):
    plain = client.completions.create(model=model, prompt="The sea", max_tokens=8, temperature=0)
    echo = client.completions.create(model=model, prompt="The sea", max_tokens=8, temperature=0, echo=True, stream=stream)
    text = "".join(event.choices[0].text for event in echo) if stream else echo.choices[0].text
    assert text == "The sea" + plain.choices[0].text


def test_completion_logprobs(client, model):
    answer = client.completions.create(model=model, prompt="The sea", max_tokens=6, temperature=0, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == answer.usage.completion_tokens
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_min_tokens_and_ignore_eos(client, model):
    answer = chat(client, model, max_tokens=40, extra_body={"min_tokens": 40, "ignore_eos": True})
    assert answer.usage.completion_tokens == 40
    assert answer.choices[0].finish_reason == "length"


def test_token_ids_are_returned(client, model, raw):
    answer = chat(client, model, extra_body={"return_token_ids": True})
    ids = answer.choices[0].message.token_ids
    assert len(ids) == answer.usage.completion_tokens
    assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens
    text = raw.post("/detokenize", json={"tokens": ids}).json()["text"]
    assert text.startswith(answer.choices[0].message.content[:8])


@pytest.mark.parametrize("field, value", [
    ("temperature", "hot"), ("temperature", -1), ("top_p", 0), ("top_p", 2), ("n", 0), ("n", 10**6),
    ("max_tokens", 0), ("stop", 5), ("presence_penalty", 3), ("logit_bias", {"-1": 1}), ("seed", 1.5),
    ("top_logprobs", 99), ("stream", "yes"), ("response_format", {"type": "json_object"}),
    ("tool_choice", "required"), ("min_p", 2), ("top_k", "all"), ("rid", ""), ("stop_token_ids", [-4]),
])
def test_bad_fields_are_named(client, model, field, value):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=MESSAGES, extra_body={field: value})
    assert refused.value.param == "/" + field
    assert refused.value.type == "invalid_request_error"


def test_errors(client, model, server):
    with pytest.raises(openai.NotFoundError) as refused:
        chat(client, "no-such-model")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        chat(client.with_options(api_key="wrong"), model)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=model, prompt="word " * 200_000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=model, prompt="x", best_of=3)
    assert httpx.get(server.url + "/v1/chat/completions").status_code == 405
    assert httpx.get(server.url + "/no/such/route").status_code == 404


def test_malformed_bodies_do_no_harm(raw):
    for body in (b"", b"{", b"null", b"[]", b"\x00", b"\xff" * 100, b"[" * 100_000, b'{"messages":' * 1000):
        answer = raw.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
    assert raw.get("/health").status_code == 200


def running(raw):
    return raw.get("/v1/loads").json()["aggregate"]["num_running_reqs"]


def test_a_client_that_leaves_is_cancelled(client, model, raw):
    stream = chat(client, model, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 5
    while running(raw) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running(raw) == 0


def test_abort_by_name(client, model, raw):
    answers = []
    worker = threading.Thread(target=lambda: answers.append(
        chat(client, model, max_tokens=3000, extra_body={"rid": "to-abort", "ignore_eos": True})))
    worker.start()
    while not running(raw):
        time.sleep(0.005)
    assert raw.post("/abort_request", json={"rid": "to-abort"}).status_code == 200
    worker.join(10)
    assert answers[0].id == "to-abort"
    assert answers[0].choices[0].finish_reason == "abort"


def test_generate(raw):
    params = {"temperature": 0, "max_new_tokens": 10}
    whole = raw.post("/generate", json={"text": "The sea", "sampling_params": params, "return_logprob": True}).json()
    assert whole["meta_info"]["completion_tokens"] == len(whole["output_ids"])
    assert len(whole["meta_info"]["output_token_logprobs"]) == len(whole["output_ids"])
    last = None
    with raw.stream("POST", "/generate", json={"text": "The sea", "sampling_params": params, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                last = httpx.Response(200, text=line[6:]).json()
    assert last["text"] == whole["text"]
    assert last["meta_info"]["finish_reason"] == whole["meta_info"]["finish_reason"]


def test_operators_routes(raw, model):
    assert raw.get("/model_info").json()["served_model_name"] == model
    assert raw.get("/get_server_info").json()["status"] == "ready"
    assert raw.get("/health_generate").status_code == 200
    text = raw.get("/metrics").text
    for series in ("sglang:num_running_reqs", "sglang:time_to_first_token_seconds_bucket", "fathom:http_responses_total"):
        assert series in text
    ids = raw.post("/v1/tokenize", json={"prompt": "Grüße, 世界"}).json()
    assert ids["count"] == len(ids["tokens"])
    assert raw.post("/v1/detokenize", json={"tokens": ids["tokens"]}).json()["text"] == "Grüße, 世界"


def test_sigterm_drains_and_exits_0(start_server):
    server = start_server()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="sk-test", max_retries=0)
    model = client.models.list().data[0].id
    stream = iter(chat(client, model, max_tokens=200, stream=True, extra_body={"ignore_eos": True}))
    next(stream)
    server.process.terminate()
    *_, last = stream
    assert last.choices[0].finish_reason == "length", "an accepted request finishes"
    assert server.process.wait(30) == 0

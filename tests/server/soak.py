"""A soak of `fathom serve`: many clients that stream, leave, abort, send nonsense and press on the KV cache, for
some minutes. Passes when the server still answers as at the start, every page is back, the step thread allocated
nothing after the warm-up, and every well-formed request got an answer or a refusal that says why.

usage: soak.py --minutes M --allocations LIBRARY -- COMMAND      ({port} is filled in; LIBRARY counts allocations)
"""
import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import shlex
import socket
import struct
import subprocess
import tempfile
import time

WORDS = "the sea was calm and a grey boat lay still under cold northern light while gulls cried over water".split()


class Soak:
    def __init__(self, port, seed):
        self.port = port
        self.random = random.Random(seed)
        self.counts = collections.Counter()
        self.failures = []

    # -- the wire -------------------------------------------------------------------------------------------------

    async def open(self):
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)

    @staticmethod
    def post(path, body):
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" \
               f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        return head.encode() + payload

    @staticmethod
    async def status_of(reader):
        line = await reader.readline()
        return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0

    async def exchange(self, data):
        """(status, rest of the response)"""
        reader, writer = await self.open()
        try:
            writer.write(data)
            await writer.drain()
            status = await self.status_of(reader)
            return status, (await reader.read()).partition(b"\r\n\r\n")[2]
        finally:
            writer.close()

    async def get(self, path):
        return await self.exchange(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    def expect(self, good, what):
        if not good:
            self.failures.append(what)

    # -- what clients do ------------------------------------------------------------------------------------------

    def prompt(self):
        shared = " ".join(WORDS * self.random.choice([0, 0, 3, 12]))
        words = self.random.choices(WORDS, k=self.random.choice([3, 10, 40, 200]))
        return (shared + " " + " ".join(words)).strip()

    def body(self, **more):
        body = {"prompt": self.prompt(), "max_tokens": self.random.choice([1, 8, 32, 96]),
                "temperature": self.random.choice([0, 0.8]), "seed": self.random.randrange(1000)}
        if self.random.random() < 0.2:
            body["n"] = self.random.randrange(2, 5)
            body["temperature"] = 1.0
        if self.random.random() < 0.2:
            body["stop"] = [self.random.choice(WORDS)]
        if self.random.random() < 0.2:
            body["logprobs"] = 2
        if self.random.random() < 0.2:
            body["frequency_penalty"] = 0.5
        return body | more

    def expect_answer(self, status, body):
        self.counts[f"status {status}"] += 1
        if status == 200:
            answer = json.loads(body)
            self.expect(all(c["finish_reason"] in ("stop", "length") for c in answer["choices"]), f"ended badly: {answer}")
        else:
            self.expect(status in (429, 503) and b'"message"' in body, f"status {status}: {body[:300]}")

    async def whole(self):
        self.expect_answer(*await self.exchange(self.post("/v1/completions", self.body())))

    async def streamed(self, leave):
        reader, writer = await self.open()
        try:
            writer.write(self.post("/v1/completions", self.body(stream=True)))
            await writer.drain()
            if leave and self.random.random() < 0.3:
                return  # before the first byte of the answer
            status = await self.status_of(reader)
            self.counts[f"status {status}"] += 1
            self.expect(status in (200, 429, 503), f"stream: status {status}")
            events = self.random.randrange(1, 20) if leave else 1 << 30
            done = False
            while events > 0 and (line := await reader.readline()):
                if line.startswith(b"data: "):
                    events -= 1
                    done = line.startswith(b"data: [DONE]")
            self.expect(leave or status != 200 or done, "a stream ended without [DONE]")
        finally:
            writer.close()

    async def aborted(self):
        name = f"r{self.random.randrange(1 << 40)}"
        body = {"text": self.prompt(), "rid": name, "sampling_params": {"max_new_tokens": 200, "ignore_eos": True}}
        request = asyncio.create_task(self.exchange(self.post("/generate", body)))
        await asyncio.sleep(self.random.random() * 0.3)
        status, _ = await self.exchange(self.post("/abort_request", {"rid": name}))
        self.expect(status == 200, f"abort: status {status}")
        await request

    async def malformed(self):
        valid = bytearray(json.dumps(self.body()).encode())
        for _ in range(self.random.randrange(1, 6)):
            valid[self.random.randrange(len(valid))] = self.random.randrange(256)
        wrong = {"temperature": "hot", "max_tokens": -5, "n": 10 ** 9, "top_p": 7, "stop": [[]], "logit_bias": {"x": 1}}
        field = self.random.choice(list(wrong))
        kind = self.random.randrange(5)
        if kind == 0:
            status, body = await self.exchange(self.post("/v1/completions", bytes(valid)))
            self.expect(status in (200, 400, 429, 503), f"a mutated body: status {status} {body[:200]}")
        elif kind == 1:
            status, body = await self.exchange(self.post("/v1/completions", self.body() | {field: wrong[field]}))
            self.expect(status == 400 and b'"error"' in body, f"{field}: status {status} {body[:200]}")
        else:
            reader, writer = await self.open()
            try:
                if kind == 2:
                    writer.write(self.random.randbytes(self.random.randrange(1, 2000)) + b"\r\n\r\n")
                elif kind == 3:  # a body that never comes whole
                    writer.write(self.post("/v1/completions", self.body())[:-10])
                else:  # headers without an end
                    writer.write(b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 70000)
                await writer.drain()
                await asyncio.wait_for(reader.read(100), 0.3)
            except (asyncio.TimeoutError, ConnectionError):
                pass
            finally:
                writer.close()
        self.counts["malformed"] += 1

    async def too_long(self):
        status, body = await self.exchange(self.post("/v1/completions", {"prompt": "sea " * 20000, "max_tokens": 4}))
        self.expect(status == 400 and b'"error"' in body, f"a prompt beyond the context: status {status} {body[:200]}")

    async def curious(self):
        for path in ("/metrics", "/health", "/v1/models", "/server_info"):
            status, _ = await self.get(path)
            self.expect(status == 200, f"{path}: status {status}")

    async def client(self, until):
        actions = [(self.whole, 4), (lambda: self.streamed(False), 4), (lambda: self.streamed(True), 4),
                   (self.aborted, 2), (self.malformed, 3), (self.too_long, 0.2), (self.curious, 0.5)]
        while time.monotonic() < until:
            action, = self.random.choices([a for a, _ in actions], [w for _, w in actions])
            try:
                await asyncio.wait_for(action(), 120)
                self.counts["actions"] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                self.counts["connection closed by the server"] += 1
            except asyncio.TimeoutError:
                self.failures.append("no answer in 120 s")

    # -- the whole ------------------------------------------------------------------------------------------------

    async def answer(self):
        """What a greedy request says, to be compared before and after."""
        status, body = await self.exchange(self.post("/v1/completions", {"prompt": "The sea", "max_tokens": 24, "temperature": 0}))
        return json.loads(body)["choices"][0]["text"] if status == 200 else f"status {status}"

    async def series(self):
        values = {}
        for line in (await self.get("/metrics"))[1].decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.partition("{")[0]] = float(value)
        return values

    async def quiet(self, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now = await self.series()
            if now["sglang:num_running_reqs"] == now["sglang:num_queue_reqs"] == 0:
                return now
            await asyncio.sleep(0.1)
        self.failures.append("requests were still live after the soak")
        return await self.series()


def step_allocations(table, pid):
    """Allocations of the threads that run steps, by thread name."""
    found = {}
    data = pathlib.Path(table).read_bytes()
    for thread, count in struct.iter_unpack("<qq", data):
        try:
            name = pathlib.Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip()
        except OSError:
            continue
        if name == "step" or name.startswith("kernel"):
            found[name] = found.get(name, 0) + count
    return found


def resident_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


async def soak(options, port, pid, table):
    run = Soak(port, options.seed)
    until = time.monotonic() + 60
    while True:
        try:
            if (await run.get("/health"))[0] == 200:
                break
        except OSError:
            pass
        assert time.monotonic() < until, "not ready after 60 s"
        await asyncio.sleep(0.1)
    before = await run.answer()
    end = time.monotonic() + 60 * options.minutes
    warm = time.monotonic() + 60 * options.minutes * 0.2
    clients = asyncio.gather(*[run.client(end) for _ in range(options.clients)])
    await asyncio.sleep(max(0, warm - time.monotonic()))
    allocated, resident = step_allocations(table, pid), resident_mb(pid)
    await clients
    last = await run.quiet()
    run.expect(step_allocations(table, pid) == allocated, f"the step thread allocated: {allocated} -> {step_allocations(table, pid)}")
    run.expect("step" in allocated, "no step thread was seen")
    pages = last["fathom:pages_free"] + last["fathom:pages_tree"]
    run.expect(pages == last["sglang:num_pages"], f"pages: {pages} of {last['sglang:num_pages']} are back")
    after = await run.answer()
    run.expect(after == before, f"the answer changed: {before!r} -> {after!r}")
    print(f"{options.minutes} minutes, {options.clients} clients: {dict(sorted(run.counts.items()))}")
    print(f"steps {last['fathom:steps_total']:.0f}, preempted {last['sglang:num_retracted_requests_total']:.0f}, "
          f"aborted {last['sglang:num_aborted_requests_total']:.0f}, failed {last['fathom:failed_requests_total']:.0f}, "
          f"pages {pages:.0f} of {last['sglang:num_pages']:.0f} back, allocations of step threads after the warm-up: "
          f"{sum(step_allocations(table, pid).values()) - sum(allocated.values())}, "
          f"resident {resident} -> {resident_mb(pid)} MB")
    return run.failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--allocations", required=True, help="the library of count_allocations.cc")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.format(port=port) for part in options.command]
    with tempfile.TemporaryDirectory() as folder:
        table = os.path.join(folder, "allocations")
        print(shlex.join(command))
        server = subprocess.Popen(command, env=os.environ | {"LD_PRELOAD": options.allocations, "FATHOM_ALLOCATIONS": table})
        try:
            failures = asyncio.run(soak(options, port, server.pid, table))
            if server.poll() is not None:
                failures.append(f"the server died: {server.returncode}")
            server.terminate()
            status = server.wait(60)
            if status != 0:
                failures.append(f"SIGTERM ended with {status}")
        finally:
            server.kill()
    for failure in failures[:20]:
        print("FAILED:", failure)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

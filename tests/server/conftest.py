"""Starts the server that the suite is about: --server "COMMAND with {port} and {key}"."""
import shlex
import socket
import subprocess
import time

import httpx
import openai
import pytest

KEY = "sk-test"


def pytest_addoption(parser):
    parser.addoption("--server", required=True, help="command; {port} and {key} are filled in")
    parser.addoption("--start-seconds", type=float, default=60.0, help="how long it may take to be ready")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, command, start_seconds):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(shlex.split(command.format(port=self.port, key=KEY)))
        deadline = time.monotonic() + start_seconds
        while not self.ready():
            assert self.process.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < deadline, f"not ready after {start_seconds} s"
            time.sleep(0.05)

    def ready(self):
        try:
            return httpx.get(self.url + "/health").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, seconds=30.0):
        self.process.terminate()
        return self.process.wait(seconds)


@pytest.fixture
def start_server(request):
    """Starts a server of the test's own."""
    started = []

    def start():
        started.append(Server(request.config.getoption("--server"), request.config.getoption("--start-seconds")))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(request):
    server = Server(request.config.getoption("--server"), request.config.getoption("--start-seconds"))
    yield server
    assert server.stop() == 0, "SIGTERM must end with status 0"


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="session")
def raw(server):
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http:
        yield http


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id

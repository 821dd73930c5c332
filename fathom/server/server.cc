#include "fathom/server/server.h"

#include <signal.h>
#include "fathom/base/log.h"
#include "fathom/base/thread_name.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdlib>
#include <thread>
#include <vector>

#include "fathom/base/threads.h"
#include "fathom/server/session.h"

namespace fathom::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::seconds kSendDeadline{5};

// Enough that a long tokenisation does not hold up health probes, few enough to leave the CPUs to
// the model.
int pool_threads(int asked) {
  return asked > 0 ? asked : std::clamp(usable_cpus() / 4, 2, 16);
}

}  // namespace

struct Server::Parts {
  explicit Parts(ServerConfig config)
      : service(std::move(config)), io(pool_threads(service.config().threads)), acceptor(io) {}

  Service service;
  Answering answering;
  asio::io_context io;
  tcp::acceptor acceptor;
  std::vector<std::thread> threads;

  Result<void> bind();
  asio::awaitable<void> accept();
  void start(tcp::socket socket);
};

Result<void> Server::Parts::bind() {
  const ServerConfig& config = service.config();
  boost::system::error_code failure;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(config.host, std::to_string(config.port), failure);
  if (!failure) {
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor.open(endpoint.protocol(), failure);
    if (!failure) acceptor.set_option(tcp::acceptor::reuse_address(true), failure);
    if (!failure) acceptor.bind(endpoint, failure);
    if (!failure) acceptor.listen(asio::socket_base::max_listen_connections, failure);
  }
  if (!failure) return {};
  return error(
      "cannot listen on {}:{}: {}; choose another address with --host and --port",
      config.host,
      config.port,
      failure.message()
  );
}

asio::awaitable<void> Server::Parts::accept() {
  asio::steady_timer pause(io);
  for (;;) {
    auto [failure, socket] = co_await acceptor.async_accept(asio::make_strand(io), kAwait);
    if (failure == asio::error::operation_aborted) co_return;
    if (failure) {
      // Most often the process is out of file descriptors, which others will give back.
      log_warning("accept: {}", failure.message());
      pause.expires_after(std::chrono::milliseconds(100));
      co_await pause.async_wait(kAwait);
      continue;
    }
    start(std::move(socket));
  }
}

void Server::Parts::start(tcp::socket socket) {
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  const auto strand = socket.get_executor();
  std::atomic<int64_t>& connections = service.metrics().connections;
  const int limit = service.config().limits.connections;
  if (connections.load() >= limit) {
    ++service.metrics().connections_refused;
    asio::co_spawn(strand, refuse_session(std::move(socket), limit), asio::detached);
    return;
  }
  ++connections;
  asio::co_spawn(
      strand,
      run_session(std::move(socket), service, answering),
      [&connections](const std::exception_ptr& thrown) {
        --connections;
        try {
          if (thrown) std::rethrow_exception(thrown);
        } catch (const std::exception& e) {
          log_error("a connection ended with an error of the server's own: {}", e.what());
        }
      }
  );
}

Result<std::unique_ptr<Server>> Server::listen(ServerConfig config) {
  auto parts = std::make_unique<Parts>(std::move(config));
  if (auto bound = parts->bind(); !bound.ok()) return bound.error();
  asio::co_spawn(asio::make_strand(parts->io), parts->accept(), asio::detached);
  const int threads = pool_threads(parts->service.config().threads);
  for (int i = 0; i < threads; ++i) {
    parts->threads.emplace_back([&io = parts->io] {
      name_this_thread("http");
      io.run();
    });
  }
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() {
  stop(std::chrono::milliseconds(0));
}

int Server::port() const {
  return parts_->acceptor.local_endpoint().port();
}

Service& Server::service() {
  return parts_->service;
}

void Server::begin_drain() {
  parts_->service.begin_drain();
  parts_->answering.close_after_answers();
}

void Server::stop(std::chrono::milliseconds deadline) {
  if (!parts_->answering.wait_until_none(deadline) && deadline.count() > 0) {
    log_warning("some answers could not be sent within {} ms", deadline.count());
  }
  parts_->io.stop();
  for (std::thread& thread : parts_->threads) thread.join();
  parts_->threads.clear();
}

namespace {

sigset_t end_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

// Blocks until one of the signals comes; false when `stop` was requested first.
bool await_signal(const std::stop_token& stop) {
  const sigset_t set = end_signals();
  const timespec tick{.tv_sec = 0, .tv_nsec = 50'000'000};
  while (!stop.stop_requested()) {
    if (sigtimedwait(&set, nullptr, &tick) > 0) return true;
  }
  return false;
}

void drain(Server& server, engine::Engine& engine, std::chrono::milliseconds deadline) {
  log_info("draining: new requests are refused, accepted ones have {} ms", deadline.count());
  server.begin_drain();
  std::jthread impatience([&engine](const std::stop_token& stop) {
    if (await_signal(stop)) engine.cancel_all();
  });
  engine.drain(deadline);
  server.stop(kSendDeadline);
}

}  // namespace

int serve(const ServerConfig& config, const EngineOpener& open) {
  const sigset_t set = end_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // Before the server, as the server's requests hold on to it.
  std::unique_ptr<engine::Engine> engine;
  auto server = Server::listen(config);
  if (!server.ok()) {
    log_error("{}", server.error().message);
    return 1;
  }
  Service& service = (*server)->service();
  {
    // While the model loads there is nothing to drain.
    const std::jthread impatience([](const std::stop_token& stop) {
      if (await_signal(stop)) std::_Exit(0);
    });
    auto opened = open([&service](std::string phase, int percent) {
      service.set_phase(std::move(phase), percent);
    });
    if (!opened.ok()) {
      log_error("{}", opened.error().message);
      return 1;
    }
    engine = std::move(*opened);
  }
  service.attach(*engine);
  log_info("serving '{}' on http://{}:{}", service.model_name(), config.host, (*server)->port());
  await_signal(std::stop_token());
  drain(**server, *engine, config.drain_timeout);
  return 0;
}

}  // namespace fathom::server

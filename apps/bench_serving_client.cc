#include "apps/bench_serving_client.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "apps/bench_serving_http.h"

namespace fathom::apps {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string http_request(
    const Endpoint& endpoint, std::string_view method, std::string_view path, std::string_view body
) {
  const std::string key =
      endpoint.api_key.empty() ? "" : fmt::format("Authorization: Bearer {}\r\n", endpoint.api_key);
  return fmt::format(
      "{} {} HTTP/1.1\r\nHost: {}:{}\r\n{}Content-Type: application/json\r\nConnection: close\r\n"
      "Content-Length: {}\r\n\r\n{}",
      method,
      path,
      endpoint.host,
      endpoint.port,
      key,
      body.size(),
      body
  );
}

// Takes the whole events off the front of `stream`; false when one says that the request failed.
bool take_events(std::string& stream, EventReader reader, LoadResult& result) {
  constexpr std::string_view kData = "data: ";
  size_t begin = 0;
  bool good = true;
  for (size_t end; (end = stream.find('\n', begin)) != std::string::npos; begin = end + 1) {
    std::string_view line = std::string_view(stream).substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.starts_with(kData) || line == "data: [DONE]") continue;
    auto event = parse_json(line.substr(kData.size()), "event");
    if (!event.ok()) result.error = event.error().message;
    good = good && event.ok() && reader(*event, result);
  }
  stream.erase(0, begin);
  return good;
}

class LoadRun {
 public:
  LoadRun(
      const Endpoint& endpoint,
      const std::vector<LoadRequest>& requests,
      EventReader reader,
      const LoadOptions& options
  )
      : endpoint_(endpoint), requests_(requests), reader_(reader), options_(options), freed_(io_) {
    freed_.expires_at(asio::steady_timer::time_point::max());
  }

  Load run() {
    load_.results.resize(requests_.size());
    boost::system::error_code failure;
    tcp::resolver resolver(io_);
    addresses_ = resolver.resolve(endpoint_.host, endpoint_.port, failure);
    start_ = Clock::now();
    asio::co_spawn(io_, arrive(), asio::detached);
    io_.run();
    load_.duration = seconds_between(start_, Clock::now());
    if (options_.show_progress) std::fputc('\n', stderr);
    return std::move(load_);
  }

 private:
  // Requests arrive at their own times, whether or not earlier ones are done.
  asio::awaitable<void> arrive() {
    std::mt19937_64 random(options_.seed);
    std::exponential_distribution<double> gap(
        std::isinf(options_.request_rate) ? 1.0 : options_.request_rate
    );
    asio::steady_timer timer(io_, start_);
    for (size_t i = 0; i < requests_.size(); ++i) {
      asio::co_spawn(io_, send(i), asio::detached);
      if (std::isinf(options_.request_rate)) continue;
      timer.expires_at(
          timer.expiry() +
          std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)))
      );
      co_await timer.async_wait(kAwait);
    }
  }

  asio::awaitable<void> send(size_t i) {
    while (options_.max_concurrency > 0 && running_ >= options_.max_concurrency) {
      co_await freed_.async_wait(kAwait);
    }
    ++running_;
    LoadResult& result = load_.results[i];
    const Clock::time_point begin = Clock::now();
    result.start = seconds_between(start_, begin);
    co_await exchange(requests_[i], begin, result);
    result.latency = seconds_between(begin, Clock::now());
    --running_;
    freed_.cancel_one();
    ++done_;
    if (options_.show_progress)
      std::fprintf(stderr, "\r%zu of %zu requests", done_, requests_.size());
  }

  asio::awaitable<void> exchange(
      const LoadRequest& request, Clock::time_point begin, LoadResult& result
  ) {
    tcp::socket socket(io_);
    if (addresses_.empty()) {
      result.error = fmt::format("no address of '{}'", endpoint_.host);
      co_return;
    }
    const auto [refused] = co_await socket.async_connect(addresses_.begin()->endpoint(), kAwait);
    boost::system::error_code failure = refused;
    if (!failure) {
      socket.set_option(tcp::no_delay(true), failure);
      const std::string bytes = http_request(endpoint_, "POST", request.path, request.body);
      std::tie(failure, std::ignore) =
          co_await asio::async_write(socket, asio::buffer(bytes), kAwait);
    }
    if (failure) {
      result.error = failure.message();
      co_return;
    }
    co_await receive(socket, begin, result);
  }

  asio::awaitable<void> receive(tcp::socket& socket, Clock::time_point begin, LoadResult& result) {
    ResponseReader response;
    std::vector<char> bytes(64 << 10);
    Clock::time_point last = begin;
    bool good = true;
    while (!response.complete() && good) {
      const auto [failure, size] = co_await socket.async_read_some(asio::buffer(bytes), kAwait);
      if (failure) response.end();
      response.add({bytes.data(), size});
      if (response.status() != 200) {
        if (failure) break;
        continue;
      }
      const size_t before = result.text.size();
      good = take_events(response.body(), reader_, result);
      if (result.text.size() > before) {
        const Clock::time_point now = Clock::now();
        if (before == 0) result.ttft = seconds_between(begin, now);
        if (before > 0) result.itls.push_back(seconds_between(last, now));
        last = now;
      }
      if (failure) break;
    }
    result.success = good && response.status() == 200 && response.complete();
    if (!result.success && result.error.empty()) {
      result.error = response.status() == 200 || response.status() == 0
                         ? "the connection ended early"
                         : fmt::format("status {}: {}", response.status(), response.body());
    }
  }

  const Endpoint& endpoint_;
  const std::vector<LoadRequest>& requests_;
  const EventReader reader_;
  const LoadOptions& options_;
  asio::io_context io_{1};
  asio::steady_timer freed_;
  tcp::resolver::results_type addresses_;
  Clock::time_point start_;
  int running_ = 0;
  size_t done_ = 0;
  Load load_;
};

}  // namespace

Load run_load(
    const Endpoint& endpoint,
    const std::vector<LoadRequest>& requests,
    EventReader reader,
    const LoadOptions& options
) {
  return LoadRun(endpoint, requests, reader, options).run();
}

Result<std::string> fetch(
    const Endpoint& endpoint,
    const std::string& method,
    const std::string& path,
    const std::string& body
) {
  boost::system::error_code failure;
  asio::io_context io;
  tcp::socket socket(io);
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(endpoint.host, endpoint.port, failure);
  if (!failure) socket.connect(found.begin()->endpoint(), failure);
  if (!failure)
    asio::write(socket, asio::buffer(http_request(endpoint, method, path, body)), failure);
  ResponseReader response;
  std::vector<char> bytes(64 << 10);
  while (!failure && !response.complete()) {
    const size_t size = socket.read_some(asio::buffer(bytes), failure);
    response.add({bytes.data(), size});
    if (failure == asio::error::eof) {
      response.end();
      break;
    }
  }
  if (response.complete() && response.status() == 200) return std::move(response.body());
  const std::string why = response.complete()
                              ? fmt::format("status {}: {}", response.status(), response.body())
                              : failure.message();
  return error("{} http://{}:{}{}: {}", method, endpoint.host, endpoint.port, path, why);
}

}  // namespace fathom::apps

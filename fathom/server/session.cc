#include "fathom/server/session.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include "fathom/server/errors.h"

namespace fathom::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::chrono::seconds kLinger{2};
// What is read ahead of requests that a client sends before the answer to the last.
constexpr size_t kReadAhead = 64 << 10;
constexpr size_t kReadSize = 4096;

// Lets another thread wake a coroutine of this strand.
class Signal : public std::enable_shared_from_this<Signal> {
 public:
  explicit Signal(const asio::any_io_executor& strand)
      : timer_(strand, asio::steady_timer::time_point::max()) {}

  // Any thread.
  void raise() {
    asio::post(timer_.get_executor(), [self = shared_from_this()] {
      self->raised_ = true;
      self->timer_.cancel();
    });
  }

  asio::awaitable<void> wait() {
    if (!raised_) co_await timer_.async_wait(kAwait);
    raised_ = false;
  }

 private:
  asio::steady_timer timer_;
  bool raised_ = false;
};

// Says that nothing more will be sent and reads until the client has seen it: closing a socket with
// unread input would reset the connection and take the answer with it.
asio::awaitable<void> linger(beast::tcp_stream& stream) {
  beast::error_code ignored;
  stream.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream.expires_after(kLinger);
  std::array<char, kReadSize> bin;
  for (;;) {
    const auto [failure, size] = co_await stream.async_read_some(asio::buffer(bin), kAwait);
    if (failure) co_return;
  }
}

class Session {
 public:
  Session(asio::ip::tcp::socket socket, Service& service, Answering& answering)
      : stream_(std::move(socket)),
        buffer_(service.config().limits.header_bytes + kReadAhead + kReadSize),
        service_(service),
        answering_(answering) {}

  asio::awaitable<void> run();

 private:
  enum class Read { request, refused, closed };

  asio::awaitable<Read> read_request(HttpRequest& request);
  asio::awaitable<Read> refuse_input(beast::error_code failure);
  asio::awaitable<void> answer(HttpRequest request);
  asio::awaitable<void> answer(std::unique_ptr<Generation> generation);
  asio::awaitable<void> pump(Generation& generation, std::shared_ptr<Signal> signal);
  asio::awaitable<void> watch();
  asio::awaitable<bool> write(std::string_view bytes);

  const Limits& limits() const { return service_.config().limits; }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  Service& service_;
  Answering& answering_;
  Framing framing_;
  bool first_ = true;
  bool open_ = true;
};

asio::awaitable<void> Session::run() {
  while (open_) {
    HttpRequest request;
    const Read read = co_await read_request(request);
    if (read == Read::refused) co_await linger(stream_);
    if (read != Read::request) break;
    first_ = false;
    answering_.begin();
    co_await answer(std::move(request));
    answering_.end();
    if (open_ && !framing_.keep_alive) {
      co_await linger(stream_);
      break;
    }
  }
}

asio::awaitable<Session::Read> Session::read_request(HttpRequest& request) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(limits().header_bytes));
  parser.body_limit(limits().body_bytes);
  stream_.expires_after(first_ ? limits().head_timeout : limits().idle_timeout);
  auto [head_failure, head] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
  if (head_failure) co_return co_await refuse_input(head_failure);
  const auto& message = parser.get();
  if (beast::iequals(message[http::field::expect], "100-continue") && !parser.is_done()) {
    if (!co_await write("HTTP/1.1 100 Continue\r\n\r\n")) co_return Read::closed;
  }
  stream_.expires_after(limits().body_timeout);
  auto [failure, size] = co_await http::async_read(stream_, buffer_, parser, kAwait);
  if (failure) co_return co_await refuse_input(failure);

  const bool http_1_1 = message.version() >= 11;
  framing_ = {
      .keep_alive = message.keep_alive() && !answering_.closing(),
      .chunked = http_1_1,
      .head_only = message.method() == http::verb::head,
  };
  request.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  request.path = std::string(target.substr(0, target.find('?')));
  request.authorization = std::string(message[http::field::authorization]);
  request.body = std::move(parser.get().body());
  co_return Read::request;
}

// Bad input is answered once; the connection cannot go on after it, as its framing is lost.
asio::awaitable<Session::Read> Session::refuse_input(beast::error_code failure) {
  HttpResponse response;
  if (failure == http::error::body_limit) {
    response = body_too_large(limits().body_bytes);
  } else if (failure == http::error::header_limit || failure == http::error::buffer_overflow) {
    response = error_response(
        431,
        fmt::format("the header is larger than {} bytes", limits().header_bytes),
        "header_too_large"
    );
  } else if (failure == http::error::end_of_stream || failure == http::error::partial_message ||
             failure.category() != http::make_error_code(http::error::bad_method).category()) {
    co_return Read::closed;
  } else {
    response = error_response(400, "not HTTP: " + failure.message(), "malformed_request");
  }
  service_.metrics().count_response("none", response.status);
  framing_.keep_alive = false;
  co_return co_await write(serialize(response, framing_)) ? Read::refused : Read::closed;
}

asio::awaitable<void> Session::answer(HttpRequest request) {
  Reply reply = service_.handle(std::move(request));
  if (auto* response = std::get_if<HttpResponse>(&reply)) {
    open_ = co_await write(serialize(*response, framing_));
    co_return;
  }
  co_await answer(std::get<std::unique_ptr<Generation>>(std::move(reply)));
}

asio::awaitable<void> Session::answer(std::unique_ptr<Generation> generation) {
  using asio::experimental::awaitable_operators::operator||;
  // Towards HTTP/1.0 a stream ends with its connection.
  if (generation->streams() && !framing_.chunked) framing_.keep_alive = false;
  auto signal = std::make_shared<Signal>(co_await asio::this_coro::executor);
  generation->on_output([signal] { signal->raise(); });
  stream_.expires_never();
  const auto winner = co_await (watch() || pump(*generation, signal));
  if (winner.index() == 0) open_ = false;
  if (!open_) ++service_.metrics().clients_gone;
}

// Sends output as it comes until all of it has. Each write takes what has come meanwhile, so a
// slower client gets fewer and larger pieces.
asio::awaitable<void> Session::pump(Generation& generation, std::shared_ptr<Signal> signal) {
  const bool streams = generation.streams();
  std::string out;
  std::string events;
  if (streams) {
    out = stream_head(framing_);
    generation.open(events);
  }
  for (;;) {
    const bool complete = generation.advance(events);
    if (streams) out += stream_chunk(events, framing_);
    if (complete)
      out += streams ? stream_end(framing_) : serialize(generation.response(), framing_);
    if (!out.empty()) open_ = co_await write(out);
    if (complete || !open_) co_return;
    out.clear();
    events.clear();
    co_await signal->wait();
  }
}

// Returns when the client is gone.
asio::awaitable<void> Session::watch() {
  while (buffer_.size() < kReadAhead) {
    const auto [failure, size] =
        co_await stream_.async_read_some(buffer_.prepare(kReadSize), kAwait);
    if (failure) co_return;
    buffer_.commit(size);
  }
  // A client that sends that much ahead is not watched any further.
  asio::steady_timer never(
      co_await asio::this_coro::executor, asio::steady_timer::time_point::max()
  );
  co_await never.async_wait(kAwait);
}

asio::awaitable<bool> Session::write(std::string_view bytes) {
  stream_.expires_after(limits().write_timeout);
  const auto [failure, size] =
      co_await asio::async_write(stream_, asio::buffer(bytes.data(), bytes.size()), kAwait);
  co_return !failure;
}

}  // namespace

void Answering::begin() {
  const std::lock_guard lock(mutex_);
  ++count_;
}

void Answering::end() {
  const std::lock_guard lock(mutex_);
  if (--count_ == 0) none_.notify_all();
}

bool Answering::wait_until_none(std::chrono::milliseconds deadline) {
  std::unique_lock lock(mutex_);
  return none_.wait_for(lock, deadline, [this] { return count_ == 0; });
}

void Answering::close_after_answers() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
}

bool Answering::closing() const {
  const std::lock_guard lock(mutex_);
  return closing_;
}

asio::awaitable<void> run_session(
    asio::ip::tcp::socket socket, Service& service, Answering& answering
) {
  Session session(std::move(socket), service, answering);
  co_await session.run();
}

asio::awaitable<void> refuse_session(asio::ip::tcp::socket socket, int limit) {
  HttpResponse response = error_response(
      429, fmt::format("{} connections are open, which is the limit", limit), "too_many_connections"
  );
  response.headers.emplace_back("Retry-After", "1");
  beast::tcp_stream stream(std::move(socket));
  stream.expires_after(kLinger);
  const std::string bytes = serialize(response, {.keep_alive = false});
  const auto [failure, size] = co_await asio::async_write(stream, asio::buffer(bytes), kAwait);
  if (!failure) co_await linger(stream);
}

}  // namespace fathom::server

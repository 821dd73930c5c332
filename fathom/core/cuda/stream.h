// Stream, Event, Graph, PinnedBuffer: owners of CUDA objects, opaque here. A stream belongs to one
// step thread. Errors throw DeviceError.
#pragma once

#include <cstdint>
#include <functional>

#include "fathom/core/device.h"

namespace fathom::cuda {

class Stream {
 public:
  explicit Stream(Device device);
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&&) = delete;
  ~Stream();

  void* handle() const { return handle_; }  // a cudaStream_t, for Exec::stream
  void wait() const;                        // until all work given to it is done
  // Asynchronous when `host` is pinned.
  void copy_to_device(void* device, const void* host, int64_t bytes) const;
  void copy_to_host(void* host, const void* device, int64_t bytes) const;
  void clear(void* device, int64_t bytes) const;

 private:
  void* handle_ = nullptr;
};

class Event {
 public:
  Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  void record(const Stream& stream);
  void wait() const;                      // the host until the event has happened
  bool reached() const;                   // has it happened?
  void hold(const Stream& stream) const;  // the stream until the event has happened
  double microseconds_since(const Event& earlier) const;

 private:
  void* handle_ = nullptr;
};

// A captured sequence of launches, replayed as one. Everything that it reads and writes must stay
// at its address.
class Graph {
 public:
  // Calls `work` once, recording what it gives to the stream instead of running it.
  static Graph capture(const Stream& stream, const std::function<void()>& work);
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&&) = delete;
  ~Graph();

  void launch(const Stream& stream) const;
  int64_t nodes() const { return nodes_; }

 private:
  Graph() = default;
  void* handle_ = nullptr;  // a cudaGraphExec_t
  int64_t nodes_ = 0;
};

// True while launches on the stream are recorded; host round trips are then impossible.
bool capturing(void* stream);

// Page-locked host memory for staging.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(int64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&&) = delete;
  ~PinnedBuffer();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace fathom::cuda

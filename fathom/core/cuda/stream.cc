#include "fathom/core/cuda/stream.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "fathom/base/check.h"
#include "fathom/core/cuda/cuda_error.h"
#include "fathom/core/cuda/cuda_memory.h"

namespace fathom::cuda {
namespace {

cudaStream_t raw(void* handle) {
  return static_cast<cudaStream_t>(handle);
}

cudaEvent_t raw_event(void* handle) {
  return static_cast<cudaEvent_t>(handle);
}

}  // namespace

Stream::Stream(Device device) {
  check(cudaSetDevice(device.index), "cudaSetDevice");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  handle_ = stream;
}

Stream::Stream(Stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Stream::~Stream() {
  if (handle_ != nullptr) cudaStreamDestroy(raw(handle_));
}

void Stream::wait() const {
  check(cudaStreamSynchronize(raw(handle_)), "cudaStreamSynchronize");
}

void Stream::copy_to_device(void* device, const void* host, int64_t bytes) const {
  check(
      cudaMemcpyAsync(
          device, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, raw(handle_)
      ),
      "copy to the device"
  );
}

void Stream::copy_to_host(void* host, const void* device, int64_t bytes) const {
  check(
      cudaMemcpyAsync(
          host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, raw(handle_)
      ),
      "copy to the host"
  );
}

void Stream::clear(void* device, int64_t bytes) const {
  check(cudaMemsetAsync(device, 0, static_cast<size_t>(bytes), raw(handle_)), "clear");
}

Event::Event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  handle_ = event;
}

Event::~Event() {
  cudaEventDestroy(raw_event(handle_));
}

void Event::record(const Stream& stream) {
  check(cudaEventRecord(raw_event(handle_), raw(stream.handle())), "cudaEventRecord");
}

void Event::wait() const {
  check(cudaEventSynchronize(raw_event(handle_)), "cudaEventSynchronize");
}

bool Event::reached() const {
  const cudaError_t code = cudaEventQuery(raw_event(handle_));
  if (code == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(code, "cudaEventQuery");
  return true;
}

void Event::hold(const Stream& stream) const {
  check(cudaStreamWaitEvent(raw(stream.handle()), raw_event(handle_), 0), "cudaStreamWaitEvent");
}

double Event::microseconds_since(const Event& earlier) const {
  float milliseconds = 0;
  check(
      cudaEventElapsedTime(&milliseconds, raw_event(earlier.handle_), raw_event(handle_)),
      "cudaEventElapsedTime"
  );
  return static_cast<double>(milliseconds) * 1e3;
}

Graph Graph::capture(const Stream& stream, const std::function<void()>& work) {
  const cudaStream_t s = raw(stream.handle());
  check(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(s, &graph);  // leaves the stream usable for the error's handler
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(s, &graph), "cudaStreamEndCapture");
  Graph result;
  size_t nodes = 0;
  check(cudaGraphGetNodes(graph, nullptr, &nodes), "cudaGraphGetNodes");
  result.nodes_ = static_cast<int64_t>(nodes);
  cudaGraphExec_t executable = nullptr;
  const cudaError_t code = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(code, "cudaGraphInstantiate");
  result.handle_ = executable;
  check(cudaGraphUpload(executable, s), "cudaGraphUpload");  // else its first launch waits for that
  return result;
}

Graph::Graph(Graph&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), nodes_(other.nodes_) {}

Graph::~Graph() {
  if (handle_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}

void Graph::launch(const Stream& stream) const {
  check(
      cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), raw(stream.handle())),
      "cudaGraphLaunch"
  );
}

bool capturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(raw(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

PinnedBuffer::PinnedBuffer(int64_t bytes) : data_(allocate_pinned(bytes)), bytes_(bytes) {
  CHECK(data_ != nullptr, "no {} bytes of page-locked memory", bytes);
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) free_pinned(data_);
}

}  // namespace fathom::cuda

// A library to preload (LD_PRELOAD) into a server under test: counts each thread's allocations into
// the file that FATHOM_ALLOCATIONS names, where the test reads them while the server runs:
// kThreads pairs of 64-bit numbers, thread id and allocations.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace {

constexpr int kThreads = 256;

struct Count {
  std::atomic<int64_t> thread;
  std::atomic<int64_t> allocations;
};

Count* open_table() {
  const char* path = std::getenv("FATHOM_ALLOCATIONS");
  if (path == nullptr) return nullptr;
  const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, kThreads * sizeof(Count)) != 0) std::abort();
  void* memory =
      mmap(nullptr, kThreads * sizeof(Count), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) std::abort();
  return static_cast<Count*>(memory);
}

std::atomic<Count*> table{nullptr};
std::atomic<int> threads{0};
// No dynamic TLS: it would allocate.
[[gnu::tls_model("initial-exec")]] thread_local Count* mine = nullptr;

[[gnu::constructor]] void start() {
  table = open_table();
}

void count() {
  if (mine == nullptr) {
    Count* const all = table.load(std::memory_order_acquire);
    if (all == nullptr) return;
    const int place = threads.fetch_add(1);
    if (place >= kThreads) std::abort();
    mine = all + place;
    mine->thread = gettid();
  }
  mine->allocations.fetch_add(1, std::memory_order_relaxed);
}

// The allocator behind ours.
extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);
extern "C" void* __libc_memalign(size_t, size_t);

}  // namespace

extern "C" {

void* malloc(size_t bytes) {
  count();
  return __libc_malloc(bytes);
}
void* calloc(size_t n, size_t bytes) {
  count();
  return __libc_calloc(n, bytes);
}
void* realloc(void* memory, size_t bytes) {
  count();
  return __libc_realloc(memory, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  count();
  *memory = __libc_memalign(alignment, bytes);
  return *memory == nullptr ? 12 : 0;  // ENOMEM
}
}

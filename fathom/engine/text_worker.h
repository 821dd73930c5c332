// TextWorker: turns committed tokens into each client's text, on a thread of its own: detokenises,
// matches stop strings, calls the requests' sinks. A client's stream closes at the first end in
// token order; what the scheduler still sends for it is ignored (contracts S2, S4).
//
// Thread rule: open() and post() from any thread; sinks, on_stop and on_end are called by the
// worker alone.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "fathom/plan/output.h"
#include "fathom/text/detokenizer.h"
#include "fathom/text/stop_matcher.h"

namespace fathom::engine {

class TextWorker {
 public:
  // A stop string ended this sequence: its client has been told; `keep` output tokens are wanted.
  // Saves work only.
  using OnStop = std::function<void(int64_t sequence, int keep)>;
  // The scheduler has told the end of this choice: nothing more will come for it.
  using OnEnd = std::function<void(const plan::Request& request)>;

  // The tokeniser must outlive the worker.
  TextWorker(const text::Tokenizer& tokenizer, OnStop on_stop, OnEnd on_end);
  ~TextWorker();  // delivers what was posted, then ends

  // Before the first record of a sequence can be posted.
  void open(int64_t sequence, const std::shared_ptr<const plan::Request>& request, int choice);
  // Takes the records; `outputs` comes back empty, with capacity.
  void post(plan::Outputs& outputs);

 private:
  struct Stream {
    std::shared_ptr<const plan::Request> request;
    int choice = 0;
    text::Detokenizer detokenizer;
    text::StopMatcher stops;
    int delivered = 0;  // output tokens
    bool closed = false;
  };

  void work();
  void deliver(const plan::Outputs& outputs, const plan::OutputRecord& record);
  // Appends the record's tokens and their text; true when a stop string ended the output.
  bool append(
      Stream& stream,
      const plan::Outputs& outputs,
      const plan::OutputRecord& record,
      plan::OutputChunk& chunk
  );

  const text::Tokenizer& tokenizer_;
  OnStop on_stop_;
  OnEnd on_end_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::unordered_map<int64_t, std::unique_ptr<Stream>>
      streams_;                                // guarded by mutex_; a Stream by the worker
  std::vector<plan::Outputs> posted_, spare_;  // guarded by mutex_
  bool stop_ = false;                          // guarded by mutex_
  std::thread thread_;
};

}  // namespace fathom::engine

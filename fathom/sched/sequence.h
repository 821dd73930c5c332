// One choice of one request, on its way through the scheduler (contracts.md section 2). Only the
// scheduler thread sees one. Objects are recycled with their capacity.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "fathom/cache/radix_tree.h"
#include "fathom/plan/request.h"

namespace fathom::sched {

using cache::PageId;
using plan::StepId;
using plan::Token;

enum class SeqState : uint8_t {
  waiting,   // new, or preempted by recompute; holds nothing
  prefill,   // admitted; chunks of tokens[0, target)
  decode,    // KV length = tokens - 1
  swap_out,  // victim, copy to the host running
  swapped,   // KV on the host only
  swap_in,   // pages granted, copy to the device running
  ended,     // the client has been told; rows or a copy still in flight
  released,  // a spare object
};

struct Sequence {
  int64_t id = 0;
  int64_t arrival = 0;  // the request's; age is (arrival, choice)
  int32_t choice = 0;
  SeqState state = SeqState::released;
  std::shared_ptr<const plan::Request> request;

  std::vector<Token> tokens;  // prompt and committed output
  int prompt = 0;             // tokens of it that are prompt
  int limit = 0;              // tokens at most
  int target = 0;             // prefill ends here
  int kv = 0;                 // positions whose KV is committed
  int planned = 0;            // prefill positions planned
  int cached = 0;             // prompt tokens found in the tree at first admission

  int in_flight = 0;     // rows planned and not committed
  int emitting = 0;      // of those, rows that emit
  int decoding = 0;      // of those, decode rows
  StepId last_step = 0;  // last planned step with a row

  std::vector<PageId> table;    // locked tree pages, then own pages (P2)
  cache::RadixTree::Lock lock;  // of the first lock.pages() of them
  std::vector<PageId> host;     // host copy
  uint64_t space = 0;           // namespace in the tree (T4)
  int32_t slot = -1;            // device slot (D1), held in prefill, decode and swap_in (D2)

  bool victim = false;       // gets no new rows; preempted when its last row commits
  bool ready = true;         // false: waits for the first choice's prompt (S5)
  bool admitted = false;     // was admitted before
  bool copying = false;      // a copy job is out
  bool needs_reset = false;  // its next row is the first of its slot (D2)
  bool scored = false;       // the log probabilities of its prompt have been told
  bool plain_next = false;   // its next decode row has no draft state (D4)
  int passed = 0;            // times a policy let another enter first (A3)
  int match = 0;             // pages that the tree holds of it, as the lpm policy saw last

  int size() const { return static_cast<int>(tokens.size()); }
  int output() const { return size() - prompt; }
  int own_pages() const { return static_cast<int>(table.size()) - lock.pages(); }
  bool running() const { return state == SeqState::prefill || state == SeqState::decode; }
  bool outside() const { return state == SeqState::waiting || state == SeqState::swapped; }
  bool live() const { return state < SeqState::ended; }
  int base() const { return std::max(kv, target); }

  // A decode row may be planned: the prompt is planned whole and the row can add a token (R3).
  bool decode_due() const {
    return running() && !victim && planned == target && size() + emitting < limit;
  }
  // Its chunks give log probabilities of the prompt. The first choice's do for all.
  bool scores() const { return request->prompt_logprobs_from > 0 && choice == 0 && !scored; }
  bool prefill_due() const { return state == SeqState::prefill && !victim && planned < target; }
};

}  // namespace fathom::sched

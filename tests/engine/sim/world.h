// Clients, text worker and step loop around the real scheduler and a simulated device. One seed
// decides everything: which event comes next, what clients ask, when copies run. What a client sees
// is held against the naive output, a loop over the model.
#pragma once

#include <deque>
#include <optional>
#include <vector>

#include "fathom/sched/scheduler.h"
#include "tests/engine/sim/device.h"

namespace fathom::sim {

// How often each thing happens, in events per thousand.
struct Rates {
  int arrive = 60;
  int cancel = 4;
  int preempt = 0;  // by hand
  int flush = 2;
  int lose = 0;
};

struct Shape {
  int prompt_max = 40;
  int output_max = 20;
  int choices_max = 3;
  int prefixes = 3;   // different beginnings of prompts
  bool stops = true;  // stop ids, stop pairs and failing rows
};

// One choice of one request, as its client sees it.
struct Client {
  std::shared_ptr<const plan::Request> request;
  int64_t id = 0;
  int choice = 0;
  std::vector<Token> naive;    // output, whole, as a loop makes it
  std::vector<Token> endless;  // without any stop
  std::vector<Token> seen;     // output tokens
  int ends = 0;
  bool closed = false;  // the text worker has cut the stream at a stop pair
  bool cancelled = false;
  bool scored = false;  // has the log probabilities of its prompt
  std::optional<plan::FinishReason> finish;
  plan::Usage usage;
};

class World {
 public:
  World(sched::SchedulerOptions options, Rates rates, Shape shape, uint64_t seed);

  // One random event; the scheduler's and the device's invariants afterwards.
  void turn();
  // Until nothing is left, without new requests; a CheckError when that does not come (I13).
  void finish();
  // Throws where what clients saw is not what the contract promises.
  void check_clients() const;

  bool add(std::shared_ptr<const plan::Request> request);
  std::shared_ptr<plan::Request> random_request();
  bool plan_step();
  bool commit_step();
  void run_copy();
  void cancel(Client& client);
  void lose_rank();
  void after();  // outputs, copies, checks

  sched::Scheduler scheduler;
  SimDevice device;
  std::deque<Client> clients;  // by id, from 1
  plan::Batch batch;
  int preempt_every = 0;  // steps; 0: never
  bool checks = true;     // full checks after each turn

 private:
  struct Cut {
    int64_t id;
    int keep;
  };
  bool progress();
  void read(const plan::OutputRecord& record);
  void read_scores(Client& client, const plan::OutputRecord& record);
  void check_client(const Client& client) const;

  Rates rates_;
  Shape shape_;
  Random random_;
  plan::Outputs outputs_;
  plan::CopyJobs jobs_;
  std::deque<plan::CopyJob> reports_;  // copies that ran and are not reported
  std::deque<Cut> cuts_;               // stop pairs found and not yet told to the scheduler
  uint64_t incarnation_ = 0;
};

// The stop pair of the simulated text worker: it ends the output, and is cut off.
bool stop_pair(const plan::Request& request, Token a, Token b);

}  // namespace fathom::sim

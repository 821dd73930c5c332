// `fathom bench op ... --device cuda`: this GPU's ceilings, then every case's time on every row.
#pragma once

#include <string>

namespace fathom {

struct BenchOpCuda {
  std::string op;         // a name, or "all"
  std::string case_name;  // a name or a shell pattern; "": every case marked for the bench
  std::string row;        // "": the first row that takes the case
  std::string json;       // file that gets one JSON line per case and row; "": none
  bool dirty_l2 = false;  // L2 full of written lines before each replay
};

// Prints a table; returns the program's exit code.
int bench_op_cuda(const BenchOpCuda& options);

}  // namespace fathom

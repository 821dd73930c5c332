// `fathom bench op ... --device cuda`: this GPU's ceilings, then every case's time on every row.
#pragma once

#include <string>

namespace fathom {

struct BenchOpCuda {
  std::string op = "all";
  std::string only = {};       // cases whose name contains this; "" = all
  std::string json_file = {};  // "" = none; else JSON lines are appended
  bool dirty_l2 = false;       // L2 full of written lines before each replay
  bool every_row = false;      // also rows that are not the best that takes a case
};

// Prints a table; returns the program's exit code.
int bench_op_cuda(const BenchOpCuda& options);

}  // namespace fathom

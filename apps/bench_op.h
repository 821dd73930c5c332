// fathom bench op: times the rows of an op's kernel table on its cases.
#pragma once

#include <string>

namespace fathom {

struct BenchOpOptions {
  std::string op;         // a name, or "all"
  std::string case_name;  // a name or a shell pattern; "": every case marked for the bench
  std::string row;        // "": every row but the reference; "ref" names that
  std::string json;       // file that gets one JSON line per case and row; "": none
  int threads = 0;        // 0: all usable CPUs
};

// Prints one line per case and row; returns the process's exit status.
int bench_op(const BenchOpOptions& options);

}  // namespace fathom

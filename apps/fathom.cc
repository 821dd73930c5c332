// The one program: fathom serve | generate | chat | bench | tokenize | doctor.
#include <CLI/CLI.hpp>

#include "apps/bench_op.h"

int main(int argc, char** argv) {
  CLI::App app("fathom 0.1.0");
  app.require_subcommand(1);
  CLI::App* bench = app.add_subcommand("bench", "Measure speed");
  bench->require_subcommand(1);
  fathom::BenchOpOptions op;
  CLI::App* bench_op = bench->add_subcommand("op", "The rows of an op's kernel table");
  bench_op->add_option("name", op.op, "An op, or all")->required();
  bench_op->add_option("--case", op.case_name, "Only this case");
  bench_op->add_option("--row", op.row, "Only this row");
  bench_op->add_option("--json", op.json, "Append JSON lines to this file");
  bench_op->add_option("--threads", op.threads, "Threads (default: usable CPUs)");
  CLI11_PARSE(app, argc, argv);
  return fathom::bench_op(op);
}

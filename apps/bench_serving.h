// `fathom bench serving`: a load client for this and other servers, with the options of SGLang's
// bench_serving.
#pragma once

namespace CLI {
class App;
}

namespace fathom::apps {

// Adds the subcommand "serving" to `bench`; its exit status lands in `status` when it ran.
void add_bench_serving(CLI::App& bench, int& status);

}  // namespace fathom::apps

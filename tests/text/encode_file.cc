// encode_file TOKENIZER INPUT OUTPUT [--no-special] [--decode]: encodes the records of INPUT and
// writes their ids, for scripts/compare_tokenizers.py. TOKENIZER is a directory or a
// tokenizer.json. Files hold records of a little-endian uint32 count and so many bytes (INPUT) or
// int32 ids (OUTPUT). With --decode each record's ids are decoded again, and OUTPUT holds the text.
// Prints the megabytes of INPUT per second of encoding (or decoding), loading left out.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fathom/text/tokenizer.h"

namespace {

using fathom::text::Token;
using fathom::text::Tokenizer;
using Clock = std::chrono::steady_clock;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string_view> records_of(std::string_view data) {
  std::vector<std::string_view> records;
  while (data.size() >= 4) {
    uint32_t size;
    std::memcpy(&size, data.data(), 4);
    records.push_back(data.substr(4, size));
    data.remove_prefix(4 + records.back().size());
  }
  return records;
}

void write_record(std::ofstream& file, const void* data, size_t count, size_t bytes_each) {
  const uint32_t size = static_cast<uint32_t>(count);
  file.write(reinterpret_cast<const char*>(&size), 4);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(count * bytes_each));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: encode_file TOKENIZER INPUT OUTPUT [--no-special] [--decode]\n");
    return 2;
  }
  const std::string path = argv[1];
  fathom::text::EncodeOptions options;
  bool decode = false;
  for (int i = 4; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--no-special") options.parse_special_tokens = false;
    if (std::string_view(argv[i]) == "--decode") decode = true;
  }
  auto tokenizer = path.ends_with(".json") ? Tokenizer::from_hf_json(read_file(path))
                                           : Tokenizer::from_hf_directory(path);
  if (!tokenizer) {
    std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
    return 1;
  }
  const std::string input = read_file(argv[2]);
  const std::vector<std::string_view> records = records_of(input);
  std::ofstream output(argv[3], std::ios::binary);
  std::vector<std::vector<Token>> ids(records.size());
  auto start = Clock::now();
  for (size_t i = 0; i < records.size(); ++i) ids[i] = (*tokenizer)->encode(records[i], options);
  std::chrono::duration<double> spent = Clock::now() - start;
  if (decode) {
    start = Clock::now();
    std::vector<std::string> texts;
    for (const auto& record : ids) texts.push_back((*tokenizer)->decode(record));
    spent = Clock::now() - start;
    for (const auto& text : texts) write_record(output, text.data(), text.size(), 1);
  } else {
    for (const auto& record : ids)
      write_record(output, record.data(), record.size(), sizeof(Token));
  }
  std::printf("%.1f\n", static_cast<double>(input.size()) / 1e6 / spent.count());
  return 0;
}

#include "fathom/text/tokenizer_json.h"

#include "fathom/text/tokenizer_spec.h"

namespace fathom::text {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxFields = 4096;  // of one object outside the vocabulary: they are searched

// A handler of nlohmann's SAX interface. Builds the tree in `out.root`; the two lists are taken out
// of it by where they stand.
class Reader {
 public:
  explicit Reader(TokenizerJson& out) : out_(out) {}

  const std::string& failure() const { return failure_; }

  bool null() { return value(nullptr); }
  bool boolean(bool v) { return value(v); }
  bool number_integer(int64_t v) { return value(v); }
  bool number_unsigned(uint64_t v) { return value(v); }
  bool number_float(double v, const std::string&) { return value(v); }
  bool binary(Json::binary_t&) { return fail("binary data"); }
  bool string(std::string& v) { return value(std::move(v)); }

  bool start_object(size_t) { return open(Json::object()); }
  bool end_object() { return close(); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    keys_.back() = name;
    if (list_ == List::none && stack_.back()->size() >= kMaxFields) {
      return fail(fmt::format("an object with more than {} fields", kMaxFields));
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) {
    return fail(fmt::format("not valid JSON at byte {}: {}", position, e.what()));
  }

 private:
  enum class List { none, vocabulary, merges };

  bool fail(std::string message) {
    if (failure_.empty()) failure_ = std::move(message);
    return false;
  }

  // Puts a value where the reader stands; the address of what was put.
  Json* put(Json&& json) {
    if (stack_.empty()) return &(out_.root = std::move(json));
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(json));
      return &parent.back();
    }
    return &(parent[keys_.back()] = std::move(json));
  }

  bool open(Json&& container) {
    if (keys_.size() >= kMaxDepth) return fail(fmt::format("nested deeper than {}", kMaxDepth));
    if (list_ != List::none) return open_in_list();
    const bool in_model = keys_.size() == 2 && keys_[0] == "model";
    if (in_model && keys_[1] == "vocab" && container.is_object()) list_ = List::vocabulary;
    if (in_model && keys_[1] == "merges" && container.is_array()) list_ = List::merges;
    list_depth_ = keys_.size();
    stack_.push_back(put(std::move(container)));
    keys_.emplace_back();
    return true;
  }

  bool open_in_list() {
    if (list_ == List::vocabulary) return fail("model.vocab: a value that is no id");
    pair_.clear();
    keys_.emplace_back();
    return true;
  }

  bool close() {
    keys_.pop_back();
    if (list_ == List::none) {
      stack_.pop_back();
      return true;
    }
    if (keys_.size() == list_depth_) {
      list_ = List::none;
      stack_.pop_back();
      return true;
    }
    if (pair_.size() != 2) {
      return fail(fmt::format("model.merges: entry {} is no pair", out_.merges.size()));
    }
    out_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    return true;
  }

  bool value(Json&& json) {
    switch (list_) {
      case List::none:
        put(std::move(json));
        return true;
      case List::vocabulary:
        return vocabulary_entry(json);
      case List::merges:
        return merges_entry(json);
    }
    return false;
  }

  bool vocabulary_entry(const Json& json) {
    const bool in_range = json.is_number_unsigned() && json.get<uint64_t>() <= kMaxTokenId;
    if (!in_range) {
      return fail(fmt::format("model.vocab: \"{}\" has no id in 0 .. {}", keys_.back(), kMaxTokenId)
      );
    }
    out_.vocabulary.emplace_back(std::move(keys_.back()), json.get<plan::Token>());
    return true;
  }

  bool merges_entry(const Json& json) {
    const bool in_pair = keys_.size() > list_depth_ + 1;
    if (!json.is_string()) {
      return fail(fmt::format("model.merges: entry {} is no string", out_.merges.size()));
    }
    const std::string& text = json.get_ref<const std::string&>();
    if (in_pair) {
      pair_.push_back(text);
      return true;
    }
    const size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) {
      return fail(fmt::format("model.merges: entry {} is not \"left right\"", out_.merges.size()));
    }
    out_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }

  TokenizerJson& out_;
  std::vector<Json*> stack_;       // open containers of the tree
  std::vector<std::string> keys_;  // the last key in every open container, those in lists too
  List list_ = List::none;
  size_t list_depth_ = 0;
  std::vector<std::string> pair_;
  std::string failure_;
};

}  // namespace

Result<TokenizerJson> read_tokenizer_json(std::string_view text) {
  TokenizerJson json;
  Reader reader(json);
  if (!Json::sax_parse(text, &reader)) return error("tokenizer.json: {}", reader.failure());
  if (!json.root.is_object()) return error("tokenizer.json: not a JSON object");
  return json;
}

}  // namespace fathom::text

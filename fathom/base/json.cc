#include "fathom/base/json.h"

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fathom {
namespace {

// Builds the value as it is read. Members are appended and looked up once, when their object ends:
// the library's own builder searches the object at each key, which is quadratic in the number of
// keys, and a header of a large checkpoint has 90,000 of them.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(int max_depth) : max_depth_(max_depth) {}

  Json take() { return std::move(root_); }
  const std::string& failure() const { return failure_; }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(Json::number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(Json::number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(Json::number_float_t value, const std::string&) override {
    return add(Json(value));
  }
  bool string(std::string& value) override { return add(Json(std::move(value))); }
  bool binary(Json::binary_t&) override { return false; }  // not of JSON text

  bool start_object(size_t) override { return open(Json::object()); }
  bool key(std::string& value) override {
    keys_.back() = std::move(value);
    return true;
  }
  bool end_object() override {
    keep_last_of_each_key(open_.back().get_ref<Json::object_t&>());
    return close();
  }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool parse_error(size_t, const std::string&, const Json::exception& e) override {
    failure_ = std::string("not valid JSON: ") + e.what();
    return false;
  }

 private:
  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Json& parent = open_.back(); parent.is_array()) {
      parent.get_ref<Json::array_t&>().push_back(std::move(value));
    } else {
      parent.get_ref<Json::object_t&>().emplace_back(std::move(keys_.back()), std::move(value));
    }
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(open_.size()) == max_depth_) {
      failure_ = fmt::format("JSON nested deeper than {}", max_depth_);
      return false;
    }
    open_.push_back(std::move(container));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    Json done = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    return add(std::move(done));
  }

  // Of members of one name the last value counts, in the place of the first, as Python's reader
  // has it.
  static void keep_last_of_each_key(Json::object_t& object) {
    // The map's own operator[] takes names.
    const auto member = [&](size_t i) -> auto& {
      return object.begin()[static_cast<long>(i)];
    };
    std::unordered_map<std::string_view, size_t> places;
    places.reserve(object.size());
    bool repeated = false;
    for (size_t i = 0; i < object.size(); ++i) {
      const auto [place, is_new] = places.try_emplace(member(i).first, i);
      if (is_new) continue;
      repeated = true;
      member(place->second).second = std::move(member(i).second);
    }
    if (!repeated) return;
    Json::object_t once;
    for (size_t i = 0; i < object.size(); ++i) {
      if (places.at(member(i).first) == i) once.insert(std::move(member(i)));
    }
    object = std::move(once);
  }

  int max_depth_;
  Json root_;
  std::vector<Json> open_;         // containers from the root inwards
  std::vector<std::string> keys_;  // of each, the name of the member being read
  std::string failure_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view what, JsonLimits limits) {
  if (text.size() > limits.bytes) {
    return error("{}: {} bytes of JSON, at most {} are read", what, text.size(), limits.bytes);
  }
  Builder builder(limits.depth);
  if (!Json::sax_parse(text, &builder)) return error("{}: {}", what, builder.failure());
  return builder.take();
}

}  // namespace fathom

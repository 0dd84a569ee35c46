#include "check.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>

namespace sidetune {
namespace {

struct Binding {
  std::string name;
  int64_t value;
  const char* from;
};

std::string quoted(const char* name) { return "'" + camel_case(name) + "'"; }

std::string number(double value, int digits = 9) {
  char text[32];
  snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

std::vector<std::string> split(const char* text) {
  std::vector<std::string> words;
  std::string word;
  for (const char* c = text;; c++) {
    if (*c == ' ' || *c == 0) {
      if (!word.empty()) words.push_back(word);
      word.clear();
      if (*c == 0) return words;
    } else {
      word += *c;
    }
  }
}

std::string join(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (size_t i = 0; i < words.size(); i++) text += (i ? between : "") + words[i];
  return text;
}

class Checker {
 public:
  Checker(const char* kernel, FieldList& fields) : kernel_(camel_case(kernel)), fields_(fields) {}

  std::vector<Field*> run(const Wish& wish) {
    std::vector<Field*> missing;
    // Options first: shape specs may use what they bind.
    for (Field& field : fields_.all)
      if (field.role == Role::option) check_option(field);
    for (Field& field : fields_.all) {
      if (field.list) check_list(field);
      if (!field.tensor) continue;
      if (*field.tensor) {
        check_given(field, *field.tensor);
      } else if (field.role == Role::in || field.role == Role::in_out) {
        if (!field.is_optional)
          refuse(Code::argument, field, "undefined", "a tensor", "is missing, expected a tensor [" + pretty(field) + "]");
      } else if (is_wanted(field, wish)) {
        infer(field);
        missing.push_back(&field);
      } else if (field.role == Role::out && !field.is_optional) {
        refuse(Code::argument, field, "unwanted", "an output that is wanted", "is always made: it cannot be unwanted");
      }
    }
    check_overlap();
    return missing;
  }

 private:
  static bool is_wanted(const Field& field, const Wish& wish) {
    if (field.role == Role::saved && !wish.save) return false;
    return !wish.wanted || wish.wanted(camel_case(field.name));
  }

  [[noreturn]] void refuse(Code code, const Field& field, std::string got, std::string expected,
                           const std::string& sentence) const {
    throw Error(code, kernel_, camel_case(field.name), std::move(got), std::move(expected),
                kernel_ + ": " + quoted(field.name) + " " + sentence);
  }

  static std::string pretty(const Field& field) { return join(split(field.spec), ", "); }

  // --- options

  void check_number(const Field& field, double value) const {
    const Range& r = field.range;
    const bool inside = (r.open ? value > r.low : value >= r.low) && value <= r.high;  // false for NaN
    if (inside) return;
    const bool unbounded = r.high >= std::numeric_limits<double>::max();
    std::string expected;
    if (r.low <= -std::numeric_limits<double>::max())
      expected = "a finite number";
    else if (unbounded)
      expected = std::string("a number ") + (r.open ? "above " : "of at least ") + number(r.low);
    else
      expected = "a number from " + number(r.low) + " to " + number(r.high);
    refuse(Code::argument, field, number(value), expected, "is " + number(value) + ", expected " + expected);
  }

  void check_option(const Field& field) {
    std::vector<int64_t> integers;
    if (field.real) check_number(field, *field.real);
    if (field.integer) integers.push_back(*field.integer);
    for (int i = 0; i < field.integer_count; i++) integers.push_back(field.integers[i]);
    for (int64_t value : integers) check_number(field, static_cast<double>(value));
    if (!field.binds) return;
    const auto names = split(field.binds);
    for (size_t i = 0; i < names.size(); i++) bindings_.push_back({names[i], integers[i], field.name});
  }

  // --- shapes

  const Binding* find(const std::string& name) const {
    for (const Binding& binding : bindings_)
      if (binding.name == name) return &binding;
    return nullptr;
  }

  static bool is_name(const std::string& word) {
    if (!std::isalpha(static_cast<unsigned char>(word[0]))) return false;
    for (char c : word)
      if (!std::isalnum(static_cast<unsigned char>(c))) return false;
    return true;
  }

  // Whether all names in it are bound.
  bool has_value(const std::string& word) const {
    std::string name;
    for (const char* c = word.c_str();; c++) {
      if (std::isalnum(static_cast<unsigned char>(*c)))
        name += *c;
      else if (!name.empty() && is_name(name) && !find(name))
        return false;
      else
        name.clear();
      if (!*c) return true;
    }
  }

  // Value of a dimension written with + - * / ( ), names and numbers. Division must come out whole, no difference below zero.
  int64_t evaluate(const Field& field, const std::string& word) {
    const char* c = word.c_str();
    const int64_t value = sum(field, word, c);
    if (value > kMaxSize) refuse_large(field, word);
    return value;
  }
  [[noreturn]] void refuse_large(const Field& field, const std::string& word) const {
    refuse(Code::shape, field, word, "at most 2^48", "needs " + word + ", which is more than 2^48" + origins(word));
  }
  int64_t sum(const Field& field, const std::string& word, const char*& c) {
    int64_t value = product(field, word, c);
    while (*c == '+' || *c == '-') {
      const bool minus = *c == '-';
      const int64_t term = product(field, word, ++c);
      if (minus && term > value) {
        const std::string got = std::to_string(value) + " - " + std::to_string(term);
        refuse(Code::shape, field, got, "at least 0", "needs " + word + ", but " + got + " is less than 0" + origins(word));
      }
      if (minus)
        value -= term;
      else if (__builtin_add_overflow(value, term, &value))
        refuse_large(field, word);
    }
    return value;
  }
  int64_t product(const Field& field, const std::string& word, const char*& c) {
    int64_t value = atom(field, word, c);
    while (*c == '*' || *c == '/') {
      const bool divide = *c == '/';
      const int64_t factor = atom(field, word, ++c);
      if (divide && (factor == 0 || value % factor != 0)) {
        const std::string got = std::to_string(value) + " / " + std::to_string(factor);
        refuse(Code::shape, field, got, "a whole number",
               "needs " + word + ", but " + got + " is not a whole number" + origins(word));
      }
      if (divide)
        value /= factor;
      else if (__builtin_mul_overflow(value, factor, &value))
        refuse_large(field, word);
    }
    return value;
  }
  int64_t atom(const Field& field, const std::string& word, const char*& c) {
    if (*c == '(') {
      const int64_t value = sum(field, word, ++c);
      ++c;
      return value;
    }
    std::string text;
    while (std::isalnum(static_cast<unsigned char>(*c))) text += *c++;
    if (std::isdigit(static_cast<unsigned char>(text[0]))) return std::stoll(text);
    const Binding* binding = find(text);
    if (!binding) throw Error(Code::argument, kernel_ + ": shape name " + text + " of " + quoted(field.name) + " has no value");
    return binding->value;
  }

  // " (B, N from 'q', d from 'weight')": who bound the names of a spec.
  std::string origins(const std::string& spec) const {
    std::vector<std::string> parts;
    std::vector<const char*> sources;
    for (const Binding& b : bindings_) {
      bool used = false;
      for (size_t at = spec.find(b.name); at != std::string::npos; at = spec.find(b.name, at + 1)) {
        const bool left = at == 0 || !std::isalnum(static_cast<unsigned char>(spec[at - 1]));
        const size_t end = at + b.name.size();
        if (left && (end == spec.size() || !std::isalnum(static_cast<unsigned char>(spec[end])))) used = true;
      }
      if (!used) continue;
      size_t source = 0;
      while (source < sources.size() && std::strcmp(sources[source], b.from) != 0) source++;
      if (source == sources.size()) sources.push_back(b.from), parts.emplace_back();
      parts[source] += (parts[source].empty() ? "" : ", ") + b.name;
    }
    for (size_t i = 0; i < parts.size(); i++) parts[i] += " from " + quoted(sources[i]);
    if (spec.find("...") != std::string::npos && leading_from_) parts.push_back("... from " + quoted(leading_from_));
    return parts.empty() ? "" : " (" + join(parts, ", ") + ")";
  }

  // What the spec asks for, as far as it is known; names that have no value yet stay names.
  std::string expectation(const Field& field, const std::vector<std::string>& words) {
    std::vector<std::string> values;
    for (const std::string& word : words) {
      if (word == "...") {
        if (!leading_from_)
          values.push_back("...");
        else
          for (int64_t n : leading_) values.push_back(std::to_string(n));
      } else {
        values.push_back(has_value(word) ? std::to_string(evaluate(field, word)) : word);
      }
    }
    const std::string letters = "[" + join(words, ", ") + "]", numbers = "[" + join(values, ", ") + "]";
    return letters == numbers ? numbers : letters + " = " + numbers + origins(join(words, " "));
  }

  void match(const Field& field, const Tensor& t) {
    const auto words = split(field.spec);
    const bool has_leading = !words.empty() && words[0] == "...";
    const int trailing = static_cast<int>(words.size()) - (has_leading ? 1 : 0);
    const auto mismatch = [&] {
      const std::string expected = expectation(field, words), got = to_string(t);
      refuse(Code::shape, field, got, expected, "has shape " + got + ", expected " + expected);
    };
    if (has_leading ? t.rank < trailing : t.rank != trailing) mismatch();
    const int leading = t.rank - trailing;
    if (has_leading) {
      if (!leading_from_) {
        leading_.assign(t.shape, t.shape + leading);
        leading_from_ = field.name;
      } else if (leading_ != std::vector<int64_t>(t.shape, t.shape + leading)) {
        mismatch();
      }
    }
    for (int i = 0; i < trailing; i++) {
      const std::string& word = words[i + (has_leading ? 1 : 0)];
      const int64_t length = t.shape[leading + i];
      if (is_name(word) && !find(word))
        bindings_.push_back({word, length, field.name});
      else if (evaluate(field, word) != length)
        mismatch();
    }
  }

  // --- dtypes and layouts

  const Tensor* tensor_of(const char* name) const {
    for (const Field& field : fields_.all)
      if (field.tensor && std::strcmp(field.name, name) == 0) return field.tensor;
    return nullptr;
  }

  static std::string names_of(DTypes dtypes) {
    std::vector<std::string> names;
    for (int i = 0; i < kDTypes; i++)
      if (dtypes.set >> i & 1) names.push_back(name_of(static_cast<DType>(i)));
    return join(names, " or ");
  }

  void check_dtype(const Field& field, const Tensor& t) const {
    if (field.dtypes.like) {
      const Tensor* other = tensor_of(field.dtypes.like);
      if (other && *other && field.dtypes.beside(other->dtype) != t.dtype) {
        const std::string expected = name_of(field.dtypes.beside(other->dtype));
        refuse(Code::dtype, field, name_of(t.dtype), expected,
               std::string("is ") + name_of(t.dtype) + ", expected " + expected +
                   (field.dtypes.beside(other->dtype) != other->dtype ? " beside bf16 of " : " like ") +
                   quoted(field.dtypes.like));
      }
    } else if (!(field.dtypes.set >> static_cast<int>(t.dtype) & 1)) {
      const std::string expected = names_of(field.dtypes);
      refuse(Code::dtype, field, name_of(t.dtype), expected, std::string("is ") + name_of(t.dtype) + ", expected " + expected);
    }
    if (t.layout != Layout::plain && !field.takes_packed) {
      refuse(Code::dtype, field, name_of(t.layout), "plain", std::string("has layout ") + name_of(t.layout) + ", expected plain");
    }
  }

  void check_given(const Field& field, const Tensor& t) {
    check_dtype(field, t);
    match(field, t);
  }

  // Lists: the first list of a call binds its length; the spec holds for every element on its own, names bound there are
  // forgotten after it.
  void check_list(const Field& field) {
    if (field.list->empty()) {
      if (field.is_optional) return;
      refuse(Code::argument, field, "an empty list", "at least one tensor", "is an empty list, expected at least one tensor");
    }
    if (!list_from_) {
      list_length_ = field.list->size();
      list_from_ = &field;
      for (const Tensor& t : *field.list) list_shapes_.push_back(t);
    } else if (field.list->size() != list_length_) {
      const std::string got = std::to_string(field.list->size()), expected = std::to_string(list_length_);
      refuse(
          Code::shape, field, got, expected,
          "has " + got + (got == "1" ? " tensor" : " tensors") + ", expected " + expected + " like " + quoted(list_from_->name));
    }
    for (size_t i = 0; i < field.list->size(); i++) {
      const Tensor& t = (*field.list)[i];
      check_dtype(field, t);
      const bool same_as_first = std::strcmp(field.spec, list_from_->spec) == 0;
      if (same_as_first) {
        const Tensor& like = list_shapes_[i];
        if (t.rank != like.rank || std::memcmp(t.shape, like.shape, sizeof(int64_t) * t.rank) != 0) {
          refuse(Code::shape, field, to_string(t), to_string(like),
                 "has a tensor of shape " + to_string(t) + " at " + std::to_string(i) + ", expected " + to_string(like) +
                     " like " + quoted(list_from_->name));
        }
      } else {
        match(field, t);
      }
    }
  }

  void infer(Field& field) {
    Tensor& t = *field.tensor;
    t = Tensor();
    if (field.dtypes.like) {
      const Tensor* other = tensor_of(field.dtypes.like);
      t.dtype = field.dtypes.beside(other->dtype);
    } else {
      int dtype = 0;
      while (!(field.dtypes.set >> dtype & 1)) dtype++;
      if (field.dtypes.set >> (dtype + 1)) {
        refuse(Code::argument, field, "undefined", "a tensor",
               "is missing: its dtype (" + names_of(field.dtypes) + ") is the caller's choice");
      }
      t.dtype = static_cast<DType>(dtype);
    }
    std::vector<int64_t> shape;
    for (const std::string& word : split(field.spec)) {
      if (word == "...")
        shape.insert(shape.end(), leading_.begin(), leading_.end());
      else
        shape.push_back(evaluate(field, word));
    }
    int64_t size = 1;
    for (int64_t n : shape)
      if (__builtin_mul_overflow(size, n, &size) || size > kMaxSize) refuse_large(field, pretty(field));
    if (shape.size() > kMaxRank) {
      const std::string got = std::to_string(shape.size()) + " dimensions", expected = "at most " + std::to_string(kMaxRank);
      refuse(Code::shape, field, got, expected, "would have " + got + ", expected " + expected);
    }
    t.rank = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), t.shape);
  }

  // --- overlap: what is written may not share memory with anything else, unless its line allows exactly that tensor

  static bool overlaps(const Tensor& a, const Tensor& b) {
    const auto* a0 = static_cast<const char*>(a.data);
    const auto* b0 = static_cast<const char*>(b.data);
    return a0 < b0 + b.bytes() && b0 < a0 + a.bytes();
  }

  void check_overlap() const {
    struct Use {
      const Field* field;
      const Tensor* tensor;
    };
    std::vector<Use> uses;
    for (const Field& field : fields_.all) {
      if (field.tensor && *field.tensor) uses.push_back({&field, field.tensor});
      if (field.list)
        for (const Tensor& t : *field.list) uses.push_back({&field, &t});
    }
    for (size_t i = 0; i < uses.size(); i++) {
      const bool i_written = uses[i].field->role != Role::in;
      for (size_t j = i + 1; j < uses.size(); j++) {
        const bool j_written = uses[j].field->role != Role::in;
        if ((!i_written && !j_written) || !overlaps(*uses[i].tensor, *uses[j].tensor)) continue;
        const Use& written = j_written ? uses[j] : uses[i];
        const Use& other = j_written ? uses[i] : uses[j];
        const bool allowed = written.field->alias && std::strcmp(written.field->alias, other.field->name) == 0 &&
                             written.tensor->data == other.tensor->data && !(i_written && j_written);
        if (!allowed) {
          const std::string got = "the memory of " + quoted(other.field->name);
          refuse(Code::shape, *written.field, got, "memory of its own", "overlaps " + quoted(other.field->name));
        }
      }
    }
  }

  std::string kernel_;
  FieldList& fields_;
  std::vector<Binding> bindings_;
  std::vector<int64_t> leading_;
  const char* leading_from_ = nullptr;
  size_t list_length_ = 0;
  const Field* list_from_ = nullptr;
  TensorList list_shapes_;
};

[[noreturn]] void refuse_rule(Code code, const char* kernel, const char* argument, const std::string& got,
                              const std::string& expected) {
  const std::string k = camel_case(kernel), a = camel_case(argument);
  throw Error(code, k, a, got, expected, k + ": '" + a + "' is " + got + ", expected " + expected);
}

}  // namespace

std::vector<Field*> check(const char* kernel, FieldList& fields, const Wish& wish) { return Checker(kernel, fields).run(wish); }

void refuse_shape(const char* kernel, const char* argument, const std::string& got, const std::string& expected) {
  refuse_rule(Code::shape, kernel, argument, got, expected);
}
void refuse_argument(const char* kernel, const char* argument, const std::string& got, const std::string& expected) {
  refuse_rule(Code::argument, kernel, argument, got, expected);
}

std::string camel_case(const std::string& name) {
  std::string text;
  for (size_t i = 0; i < name.size(); i++) {
    if (name[i] == '_') continue;
    const bool raise = i > 0 && name[i - 1] == '_';
    const int c = static_cast<unsigned char>(name[i]);
    text += static_cast<char>(i == 0 ? std::tolower(c) : raise ? std::toupper(c) : c);
  }
  return text;
}

int64_t bytes_moved(const FieldList& fields) {
  int64_t bytes = 0;
  for (const Field& field : fields.all) {
    const int64_t times = field.role == Role::in_out ? 2 : 1;
    if (field.tensor && *field.tensor) bytes += times * field.tensor->bytes();
    if (field.list)
      for (const Tensor& t : *field.list) bytes += times * t.bytes();
  }
  return bytes;
}

std::string call_text(const FieldList& fields) {
  std::vector<std::string> words;
  for (const Field& field : fields.all) {
    const std::string name = camel_case(field.name);
    if (field.tensor && *field.tensor) {
      const Tensor& t = *field.tensor;
      std::vector<std::string> lengths;
      for (int axis = 0; axis < t.rank; axis++) lengths.push_back(std::to_string(t.shape[axis]));
      const std::string layout = t.layout == Layout::plain ? "" : std::string(" ") + name_of(t.layout);
      words.push_back(name + " " + name_of(t.dtype) + "[" + join(lengths, ",") + "]" + layout);
    }
    if (field.list) words.push_back(name + " " + std::to_string(field.list->size()) + " tensors");
    if (field.real) words.push_back(name + " " + number(*field.real, 6));
    if (field.integer) words.push_back(name + " " + std::to_string(*field.integer));
    if (field.flag && *field.flag) words.push_back(name);
    if (field.choice) words.push_back(name + " " + split(field.choices)[*field.choice]);
    std::vector<std::string> integers;
    for (int i = 0; i < field.integer_count; i++) integers.push_back(std::to_string(field.integers[i]));
    if (!integers.empty()) words.push_back(name + " [" + join(integers, ",") + "]");
  }
  return join(words, ", ");
}

std::string describe(const char* kernel, const char* family, const FieldList& fields) {
  static const char* roles[] = {"in", "inOut", "out", "saved", "option"};
  std::string text = "{\"kernel\":\"" + camel_case(kernel) + "\",\"family\":\"" + family + "\",\"fields\":[";
  bool comma = false;
  for (const Field& field : fields.all) {
    text += std::string(comma ? "," : "") + "{\"name\":\"" + camel_case(field.name) + "\",\"role\":\"" +
            roles[static_cast<int>(field.role)] + "\"";
    comma = true;
    if (field.role == Role::option) {
      const char* type = field.real      ? "number"
                         : field.flag    ? "boolean"
                         : field.choice  ? "choice"
                         : field.integer ? "integer"
                                         : "integers";
      text += std::string(",\"type\":\"") + type + "\"";
      if (field.choice) text += std::string(",\"choices\":\"") + field.choices + "\"";
      if (field.integer_count) text += ",\"count\":" + std::to_string(field.integer_count);
      if (field.is_required) text += ",\"required\":true";
    } else {
      std::vector<std::string> dtypes;
      for (int i = 0; i < kDTypes; i++)
        if (field.dtypes.set >> i & 1) dtypes.push_back(name_of(static_cast<DType>(i)));
      text += std::string(",\"spec\":\"") + field.spec + "\",\"dtypes\":\"" +
              (field.dtypes.like ? "like " + camel_case(field.dtypes.like) + (field.dtypes.in_bytes ? ", u8 for bf16" : "")
                                 : join(dtypes, " ")) +
              "\"";
      if (field.list) text += ",\"list\":true";
      if (field.is_optional) text += ",\"optional\":true";
      if (field.takes_packed) text += ",\"packed\":true";
    }
    text += "}";
  }
  return text + "]}";
}

// In the general check the first list of a call, u, stands for itself.
void check_factors(const char* kernel, const TensorList& u, const Tensor& h, const TensorList& c) {
  Tensor expected = h;
  expected.shape[h.rank - 1] = c[0].dim(0);
  for (size_t j = 0; j < u.size(); j++) {
    if (u[j].rank == h.rank && std::equal(expected.shape, expected.shape + expected.rank, u[j].shape)) continue;
    refuse_shape(kernel, "u", "of shape " + to_string(u[j]) + " at " + std::to_string(j), to_string(expected));
  }
}

double factor_flops(const Tensor& h, const TensorList& c) {
  return 2.0 * static_cast<double>(h.size()) * static_cast<double>(c.size()) * static_cast<double>(c[0].dim(0));
}

}  // namespace sidetune

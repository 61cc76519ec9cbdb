// A deterministic mutator of JSON text: what truncation, editing, other programs and malice make of
// a file.

#pragma once

#include <array>
#include <cstddef>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace aimet::encodings::testing {

enum class Mutation {
  kTruncate,
  kHugeNumber,
  kWrongType,
  kDeepNesting,
  kDuplicateKey,
  kBadUtf8,
  kClaim,
  kMisspeltKey,
  kTokens,
  kBytes,
  kLongList,
  kCount
};

class Mutator {
 public:
  explicit Mutator(unsigned seed) : generator_(seed) {}

  size_t below(size_t count) { return generator_() % count; }

  // `text`: one of the samples, which have a token of each kind and no escapes.
  std::string apply(const std::string& text, Mutation kind) {
    if (kind == Mutation::kTruncate) {
      return text.substr(0, below(text.size()));
    }
    return kind == Mutation::kBytes ? edit_bytes(text) : edit_tokens(text, kind);
  }

  // Any text that is not empty.
  std::string edit_bytes(std::string bytes) {
    for (size_t edit = 0; edit <= below(3); ++edit) {
      const size_t position = below(bytes.size());
      switch (below(3)) {
        case 0:
          bytes[position] = static_cast<char>(below(256));
          break;
        case 1:
          bytes.erase(position, 1 + below(20));
          break;
        default:
          bytes.insert(position, bytes.substr(below(bytes.size()), below(40)));
          break;
      }
      bytes += bytes.empty() ? " " : "";
    }
    return bytes;
  }

 private:
  struct Token {
    enum Kind { kKey, kString, kNumber, kLiteral, kPunctuation, kValue };
    Kind kind;
    size_t begin;
    size_t end;
  };

  std::string edit_tokens(const std::string& text, Mutation kind) {
    const std::vector<Token> tokens = tokens_of(text);
    switch (kind) {
      case Mutation::kHugeNumber:
        return with(text, any(tokens, Token::kNumber),
                    pick({"1e999",
                          "-1e999",
                          "1e308",
                          "-1e308",
                          "1e-400",
                          "5e-324",
                          "1e39",
                          "-0",
                          "NaN",
                          "Infinity",
                          "9223372036854775807",
                          "9223372036854775808",
                          "-9223372036854775808",
                          "-9223372036854775809",
                          "18446744073709551616",
                          "99999999999999999999999",
                          "0.1",
                          "-0.5",
                          "1e16",
                          "4294967296",
                          "0"}));
      case Mutation::kWrongType:
        return with(text, any(tokens, Token::kValue),
                    pick({"null", "true", "false", "\"text\"", "\"\"", "{}", "[]", "[[]]", "[null]",
                          "{\"\": 0}", "0", "-1", "1.5"}));
      case Mutation::kDeepNesting: {
        const Token token = any(tokens, Token::kValue);
        const size_t depth = 1 + below(2000);
        return with(text, token,
                    std::string(depth, '[') + text.substr(token.begin, token.end - token.begin) +
                        std::string(depth, ']'));
      }
      case Mutation::kDuplicateKey: {
        const Token key = any(tokens, Token::kKey);
        const std::string name = text.substr(key.begin, key.end - key.begin);
        return with(text, key, name + ": " + pick({"0", "\"x\"", "[]", "{}"}) + ", " + name);
      }
      case Mutation::kBadUtf8: {
        Token token = any(tokens, below(2) == 0 ? Token::kKey : Token::kString);
        token.begin += 1 + below(token.end - token.begin - 1);
        token.end = token.begin;
        return with(text, token,
                    pick({"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\x80",
                          "\xe2\x82", "\\ud800", "\\u12", "\n", "\x01"}));
      }
      case Mutation::kClaim:
        return with(text, any(tokens, Token::kNumber),
                    pick({"1073741824", "4294967295", "2147483647", "1000000000000", "65536", "1e9",
                          "-1073741824"}));
      case Mutation::kMisspeltKey: {
        Token key = any(tokens, Token::kKey);
        key.begin += 1;
        key.end = key.begin + (key.end - key.begin > 2 ? below(2) : 0);
        return with(text, key, pick({"", "x", "\\u0000", "_"}));
      }
      case Mutation::kTokens: {
        const Token first = tokens[below(tokens.size())];
        const Token second = tokens[below(tokens.size())];
        return with(text, first,
                    below(3) == 0 ? "" : text.substr(second.begin, second.end - second.begin));
      }
      case Mutation::kLongList: {
        std::string list = "[0.5";
        const std::string element = pick({", 0.5", ", 0", ", []", ", [1]", ", \"a\"", ", {}"});
        for (size_t count = below(500); count > 0; --count) {
          list += element;
        }
        return with(text, any(tokens, Token::kValue), list + "]");
      }
      default:
        return text;
    }
  }

  static std::vector<Token> tokens_of(const std::string& text) {
    std::vector<Token> tokens;
    for (size_t begin = 0; begin < text.size();) {
      const char c = text[begin];
      size_t end = begin + 1;
      Token::Kind kind = Token::kPunctuation;
      if (c == '"') {
        end = text.find('"', begin + 1) + 1;
        kind = text.compare(end, 1, ":") == 0 ? Token::kKey : Token::kString;
      } else if (c == '-' || (c >= '0' && c <= '9')) {
        end = text.find_first_not_of("0123456789+-.eE", begin);
        kind = Token::kNumber;
      } else if (c >= 'a' && c <= 'z') {
        end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz", begin);
        kind = Token::kLiteral;
      } else if (c == ' ' || c == '\n') {
        ++begin;
        continue;
      }
      tokens.push_back({kind, begin, end});
      begin = end;
    }
    return tokens;
  }

  // kValue: any string, number or literal that is no key.
  Token any(const std::vector<Token>& tokens, Token::Kind kind) {
    while (true) {
      const Token token = tokens[below(tokens.size())];
      const bool is_value = token.kind == Token::kString || token.kind == Token::kNumber ||
                            token.kind == Token::kLiteral;
      if (token.kind == kind || (kind == Token::kValue && is_value)) {
        return token;
      }
    }
  }

  static std::string with(const std::string& text, const Token& token, const std::string& other) {
    return text.substr(0, token.begin) + other + text.substr(token.end);
  }

  std::string pick(const std::vector<std::string>& choices) {
    return choices[below(choices.size())];
  }

  std::mt19937 generator_;
};

}  // namespace aimet::encodings::testing

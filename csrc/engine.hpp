// Sequences on their way: their tokens, their pages, and steps that move many of them on at once.
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "network.hpp"
#include "pages.hpp"
#include "sampling.hpp"

namespace gptwo {

// The cache has no page left for what was asked; nothing has changed.
struct OutOfPages : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  Shape shape;
  Precision precision = Precision::fp32, head = Precision::fp32, cache = Precision::fp32;
  std::string isa;  // "" is the fastest
  int threads = 1;
  int max_tokens = 256;  // of one pass
  size_t cache_bytes = size_t(1) << 30;
  bool share = true;  // sequences with the same beginning share its pages
};

// What a sequence does in a step: its next `count` tokens (those without keys and values yet) go through the
// network, then guessed tokens after them. A token is chosen once no token of the sequence is left, and after each
// guess that turns out to be what was chosen.
struct Work {
  int sequence;
  int count;
  std::vector<int> guesses;
};

struct Usage {
  size_t sequences, pages, cached_pages, page_bytes, limit_pages, cache_bytes, weight_bytes, screened, screened_panels;
};

class Engine {
 public:
  explicit Engine(const Options& options);

  void add_weight(const std::string& name, const Source& source) { network_.add(name, source); }
  std::string missing() const { return network_.missing(); }

  Network& network() { return network_; }
  // The adapter that sequences go through where they name none; 0: none.
  void set_adapter(int adapter);
  void drop_adapter(int adapter);

  // A new sequence; the network sees `tokens` from `first` on, through an adapter: -1 is that of `set_adapter`, 0 none.
  // Returns its id.
  int open(std::vector<int> tokens, int prompt, int first, const Sampling& sampling, int adapter = -1);
  // Another sequence with the same tokens; it shares the pages until one of the two writes to them.
  int fork(int sequence, const Sampling& sampling);
  void close(int sequence);
  // Give up a sequence's pages; its tokens are computed again when it next runs.
  void rewind(int sequence);
  // See only the tokens from `first` on; gives up the pages, since positions change.
  void slide(int sequence, int first);
  void append(int sequence, int token);
  // Tokens without keys and values, after taking over what the prefix cache has.
  int left(int sequence);

  // For each piece of work the tokens chosen: none while a prompt is not through, else one and more for guesses.
  std::vector<std::vector<Choice>> step(const std::vector<Work>& work);
  // The same pass without choosing: logits after some of its tokens, (rows, V); of all its tokens in their order, those
  // at `rows`.
  void logits(const std::vector<Work>& work, const std::vector<int>& rows, float* out);
  // Hidden states of some tokens of the pass: `rows` count over the tokens of all work, ascending.
  void hidden(const std::vector<Work>& work, const std::vector<int>& rows, float* out);
  // How likely the sequence's own next token is after each of its `count` next tokens: log-probability, and whether
  // it is the likeliest.
  void score(const Work& work, double* logprobs, bool* likeliest);

  Usage usage() const;
  void forget() { pages_.forget(); }
  const Shape& shape() const { return network_.shape; }
  int max_tokens() const { return network_.max_tokens; }
  const char* isa() const { return kernels_.name; }

 private:
  struct Sequence {
    std::vector<int> tokens;
    int prompt, first;
    int adapter = 0, before = 0;  // its number, and the tokens that it puts before the window
    int computed = 0;             // tokens of the window with keys and values
    std::vector<int> pages;
    std::vector<Pages::Chain> kept;  // of its first pages: their names in the prefix cache
    Sampling sampling;
    int window() const { return int(tokens.size()) - first; }
    int held() const { return pages.empty() ? 0 : before + computed; }  // tokens in its pages
    bool shares() const { return before == 0; }
  };

  Sequence& get(int id);
  void reuse(Sequence& sequence);
  void drop_pages(Sequence& sequence);
  void reserve(const std::vector<Work>& work);
  // One pass: reserves, computes, and counts the tokens (guesses not). `rows` are indices into all its tokens.
  void pass(const std::vector<Work>& work, const std::vector<int>& rows);
  void keep(Sequence& sequence);

  Team team_;
  const Kernels& kernels_;
  Network network_;
  Pages pages_;
  const bool share_;
  std::map<int, Sequence> sequences_;
  int last_id_ = 0, adapter_ = 0;
  std::vector<float> hidden_;  // of the rows of the last pass
  Buffer logits_;
  std::vector<Bench> benches_;
};

}  // namespace gptwo

#include "engine.hpp"

#include <algorithm>

#include "cpu.hpp"

namespace gptwo {
namespace {

constexpr int LOGITS_ROWS = 32;  // rows of logits held at a time

// Where the chains of pages of an adapter begin: what it computes is no other's.
Pages::Chain root(int adapter) { return adapter ? ~Pages::Chain(adapter) : 0; }

}  // namespace

Engine::Engine(const Options& o)
    : team_(o.threads), kernels_(*choose_kernels(o.isa)),
      network_(team_, kernels_, o.shape, o.precision, o.head, o.cache, o.max_tokens),
      pages_(network_.page_bytes(), o.cache_bytes), share_(o.share), benches_(size_t(o.threads)) {
  logits_ = Buffer(size_t(LOGITS_ROWS) * network_.logits_stride() * 4);
}

Engine::Sequence& Engine::get(int id) {
  const auto place = sequences_.find(id);
  if (place == sequences_.end()) throw std::invalid_argument("there is no sequence " + std::to_string(id));
  return place->second;
}

void Engine::set_adapter(int adapter) {
  network_.adapter(adapter);  // there is such a one
  adapter_ = adapter;
}

void Engine::drop_adapter(int adapter) {
  if (adapter == adapter_) adapter_ = 0;
  for (const auto& [id, sequence] : sequences_)
    if (sequence.adapter == adapter) throw std::invalid_argument("a sequence goes through the adapter");
  network_.drop_adapter(adapter);
}

int Engine::open(std::vector<int> tokens, int prompt, int first, const Sampling& sampling, int adapter) {
  if (first < 0 || first >= int(tokens.size())) throw std::invalid_argument("a sequence has at least one token");
  for (int token : tokens)
    if (token < 0 || token >= shape().vocab_size) throw std::invalid_argument("a token is not in the vocabulary");
  Sequence sequence;
  sequence.tokens = std::move(tokens);
  sequence.prompt = prompt;
  sequence.first = first;
  sequence.sampling = sampling;
  sequence.adapter = adapter < 0 ? adapter_ : adapter;
  if (const Adapter* through = network_.adapter(sequence.adapter)) sequence.before = through->before;
  sequences_.emplace(++last_id_, std::move(sequence));
  return last_id_;
}

int Engine::fork(int id, const Sampling& sampling) {
  Sequence copy = get(id);
  copy.sampling = sampling;
  for (int page : copy.pages) pages_.hold(page);
  sequences_.emplace(++last_id_, std::move(copy));
  return last_id_;
}

void Engine::drop_pages(Sequence& sequence) {
  for (int page : sequence.pages) pages_.drop(page);
  sequence.pages.clear();
  sequence.kept.clear();
  sequence.computed = 0;
}

void Engine::close(int id) {
  drop_pages(get(id));
  sequences_.erase(id);
}

void Engine::rewind(int id) { drop_pages(get(id)); }

void Engine::slide(int id, int first) {
  Sequence& sequence = get(id);
  if (first < 0 || first >= int(sequence.tokens.size())) throw std::invalid_argument("the window would be empty");
  drop_pages(sequence);
  sequence.first = first;
}

void Engine::append(int id, int token) {
  if (token < 0 || token >= shape().vocab_size) throw std::invalid_argument("the token is not in the vocabulary");
  get(id).tokens.push_back(token);
}

int Engine::left(int id) {
  Sequence& sequence = get(id);
  reuse(sequence);
  return sequence.window() - sequence.computed;
}

// Take over the pages of an equal beginning. At least one token is left, so that there are logits to compute.
void Engine::reuse(Sequence& sequence) {
  if (!share_ || !sequence.shares() || sequence.computed) return;
  Pages::Chain chain = root(sequence.adapter);
  Pages::Tokens tokens;
  while (sequence.computed + PAGE < sequence.window()) {
    std::copy_n(sequence.tokens.begin() + sequence.first + sequence.computed, PAGE, tokens.begin());
    const Pages::Found found = pages_.find(chain, tokens);
    if (!found.chain) break;
    pages_.hold(found.page);
    sequence.pages.push_back(found.page);
    sequence.kept.push_back(chain = found.chain);
    sequence.computed += PAGE;
  }
}

// Give full pages to the prefix cache; where it has an equal one, that one takes the place of ours.
void Engine::keep(Sequence& sequence) {
  if (!share_ || !sequence.shares()) return;
  Pages::Tokens tokens;
  while (int(sequence.kept.size() + 1) * PAGE <= sequence.computed) {
    const size_t index = sequence.kept.size();
    std::copy_n(sequence.tokens.begin() + sequence.first + index * PAGE, PAGE, tokens.begin());
    const Pages::Found found = pages_.keep(index ? sequence.kept.back() : root(sequence.adapter), tokens, sequence.pages[index]);
    if (found.page != sequence.pages[index]) {
      pages_.hold(found.page);
      pages_.drop(sequence.pages[index]);
      sequence.pages[index] = found.page;
    }
    sequence.kept.push_back(found.chain);
  }
}

// Pages for all of the work, or OutOfPages and nothing has changed.
void Engine::reserve(const std::vector<Work>& work) {
  size_t needed = 0;
  for (const Work& one : work) {
    Sequence& sequence = get(one.sequence);
    const int end = sequence.before + sequence.computed + one.count + int(one.guesses.size());
    if (one.count < 1 || one.count > sequence.window() - sequence.computed || end > shape().n_positions)
      throw std::invalid_argument("a sequence was given more work than it has tokens or positions");
    if (!one.guesses.empty() && one.count != sequence.window() - sequence.computed)
      throw std::invalid_argument("guesses come after the last token of a sequence");
    for (int guess : one.guesses)
      if (guess < 0 || guess >= shape().vocab_size) throw std::invalid_argument("a guess is not in the vocabulary");
    const size_t pages = size_t(end + PAGE - 1) / PAGE;
    needed += pages - sequence.pages.size();
    const int held = sequence.held();
    if (held % PAGE && pages_.shared(sequence.pages[held / PAGE])) ++needed;
  }
  if (!pages_.can_take(needed))
    throw OutOfPages("the cache holds " + std::to_string(pages_.limit()) + " pages of " +
                     std::to_string(pages_.page_bytes()) + " bytes; " + std::to_string(needed) + " more are needed");
  for (const Work& one : work) {
    Sequence& sequence = get(one.sequence);
    const int held = sequence.held();
    if (held % PAGE) {  // a page begun together with another sequence: from here on each has its own
      int& page = sequence.pages[held / PAGE];
      if (pages_.shared(page)) page = pages_.copy(page);
    }
    const int end = sequence.before + sequence.computed + one.count + int(one.guesses.size());
    while (int(sequence.pages.size()) * PAGE < end) sequence.pages.push_back(pages_.take());
    if (sequence.before && !held) {
      std::vector<char*> pages;
      for (int page : sequence.pages) pages.push_back(pages_.data(page));
      network_.begin(*network_.adapter(sequence.adapter), pages.data());
    }
  }
}

void Engine::pass(const std::vector<Work>& work, const std::vector<int>& rows) {
  int total = 0;
  for (const Work& one : work) total += one.count + int(one.guesses.size());
  if (total > max_tokens()) throw std::invalid_argument("a pass has more tokens than max_tokens");
  reserve(work);
  std::vector<std::vector<int>> tokens(work.size());
  std::vector<std::vector<char*>> pages(work.size());
  std::vector<Span> spans;
  for (size_t i = 0; i < work.size(); ++i) {
    const Sequence& sequence = get(work[i].sequence);
    const auto begin = sequence.tokens.begin() + sequence.first + sequence.computed;
    tokens[i].assign(begin, begin + work[i].count);
    tokens[i].insert(tokens[i].end(), work[i].guesses.begin(), work[i].guesses.end());
    for (int page : sequence.pages) pages[i].push_back(pages_.data(page));
    spans.push_back({tokens[i].data(), int(tokens[i].size()), sequence.before + sequence.computed, pages[i].data(),
                     network_.adapter(sequence.adapter)});
  }
  hidden_.resize(std::max<size_t>(1, rows.size()) * shape().n_embd);
  network_.forward(spans, rows, hidden_.data());
  for (const Work& one : work) {
    Sequence& sequence = get(one.sequence);
    sequence.computed += one.count;
    keep(sequence);
  }
}

std::vector<std::vector<Choice>> Engine::step(const std::vector<Work>& work) {
  // Rows with logits: the last token of a sequence whose tokens are all in the pass, and its guesses.
  std::vector<int> rows;
  std::vector<std::pair<size_t, int>> owners;  // which work, which of its chosen tokens
  int at = 0;
  for (size_t i = 0; i < work.size(); ++i) {
    const Sequence& sequence = get(work[i].sequence);
    const int guesses = int(work[i].guesses.size());
    if (work[i].count == sequence.window() - sequence.computed)
      for (int g = 0; g <= guesses; ++g) {
        rows.push_back(at + work[i].count - 1 + g);
        owners.emplace_back(i, g);
      }
    at += work[i].count + guesses;
  }
  pass(work, rows);

  std::vector<std::vector<Choice>> chosen(work.size()), all(work.size());
  for (size_t i = 0; i < work.size(); ++i) all[i].resize(work[i].guesses.size() + 1);
  const int stride = network_.logits_stride();
  for (size_t start = 0; start < rows.size(); start += LOGITS_ROWS) {
    const int count = int(std::min<size_t>(LOGITS_ROWS, rows.size() - start));
    float* logits = logits_.as<float>();
    std::vector<Network::Wanted> wanted;
    for (int r = 0; r < count; ++r) {
      const Sampling& sampling = get(work[owners[start + r].first].sequence).sampling;
      if (const int largest = largest_needed(sampling))
        wanted.push_back({largest, std::min(sampling.vocab_size, shape().vocab_size)});
    }
    if (int(wanted.size()) == count)
      network_.largest(hidden_.data() + start * shape().n_embd, count, wanted, logits);
    else
      network_.logits(hidden_.data() + start * shape().n_embd, count, logits);
    const auto one_row = [&](int r, int thread) {
      const auto [i, g] = owners[start + r];
      const Sequence& sequence = get(work[i].sequence);
      std::vector<int> with_guesses;
      if (g) {
        with_guesses = sequence.tokens;
        with_guesses.insert(with_guesses.end(), work[i].guesses.begin(), work[i].guesses.begin() + g);
      }
      all[i][g] = choose(kernels_, sequence.sampling, logits + size_t(r) * stride, shape().vocab_size,
                         g ? with_guesses : sequence.tokens, sequence.prompt, benches_[thread]);
    };
    if (count == 1)
      one_row(0, 0);
    else
      team_.run([&](Worker& worker) {
        for (auto piece = worker.take(count, 1); piece.begin < piece.end; piece = worker.take(count, 1))
          one_row(piece.begin, worker.index());
      });
  }
  for (const auto& [i, g] : owners) {
    if (g == 0) {
      Sequence& sequence = get(work[i].sequence);
      int right = 0;  // guesses that were chosen
      const int guesses = int(work[i].guesses.size());
      while (right < guesses && all[i][right].token == work[i].guesses[right]) ++right;
      for (int n = 0; n <= right; ++n) {
        chosen[i].push_back(all[i][n]);
        if (all[i][n].token >= 0) sequence.tokens.push_back(all[i][n].token);
      }
      sequence.computed += right;
      keep(sequence);
      // Pages beyond the right guesses go back.
      while (int(sequence.pages.size() - 1) * PAGE >= sequence.before + sequence.computed) {
        pages_.drop(sequence.pages.back());
        sequence.pages.pop_back();
      }
    }
  }
  return chosen;
}

namespace {

void check_rows(const std::vector<Work>& work, const std::vector<int>& rows) {
  int total = 0;
  for (const Work& one : work) total += one.count;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i] < (i ? rows[i - 1] + 1 : 0) || rows[i] >= total)
      throw std::invalid_argument("rows are tokens of the pass, each once and in their order");
}

}  // namespace

void Engine::logits(const std::vector<Work>& work, const std::vector<int>& rows, float* out) {
  check_rows(work, rows);
  pass(work, rows);
  const int V = shape().vocab_size, stride = network_.logits_stride();
  for (size_t start = 0; start < rows.size(); start += LOGITS_ROWS) {
    const int count = int(std::min<size_t>(LOGITS_ROWS, rows.size() - start));
    network_.logits(hidden_.data() + start * shape().n_embd, count, logits_.as<float>());
    for (int r = 0; r < count; ++r) std::copy_n(logits_.as<float>() + size_t(r) * stride, V, out + (start + r) * V);
  }
}

void Engine::hidden(const std::vector<Work>& work, const std::vector<int>& rows, float* out) {
  check_rows(work, rows);
  pass(work, rows);
  std::copy_n(hidden_.begin(), rows.size() * shape().n_embd, out);
}

void Engine::score(const Work& work, double* logprobs, bool* likeliest) {
  std::vector<int> rows(static_cast<size_t>(work.count));
  for (int i = 0; i < work.count; ++i) rows[i] = i;
  const Sequence& sequence = get(work.sequence);
  const int begin = sequence.first + sequence.computed + 1;
  if (begin + work.count > int(sequence.tokens.size())) throw std::invalid_argument("the last token has no next one");
  pass({work}, rows);
  const int V = shape().vocab_size, stride = network_.logits_stride();
  for (int start = 0; start < work.count; start += LOGITS_ROWS) {
    const int count = std::min(LOGITS_ROWS, work.count - start);
    network_.logits(hidden_.data() + size_t(start) * shape().n_embd, count, logits_.as<float>());
    team_.run([&](Worker& worker) {
      for (auto piece = worker.take(count, 1); piece.begin < piece.end; piece = worker.take(count, 1)) {
        const float* row = logits_.as<float>() + size_t(piece.begin) * stride;
        const int target = sequence.tokens[begin + start + piece.begin];
        int top;
        const double total = log_total(kernels_, row, V, &top, benches_[worker.index()]);
        logprobs[start + piece.begin] = double(row[target]) - total;
        likeliest[start + piece.begin] = top == target;
      }
    });
  }
}

Usage Engine::usage() const {
  return {sequences_.size(), pages_.used(), pages_.cached(), pages_.page_bytes(), pages_.limit(), pages_.bytes(),
          network_.weight_bytes(), network_.screened(), network_.screened_panels()};
}

}  // namespace gptwo

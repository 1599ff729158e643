// The Python module: engines, their sequences and steps. Long calls release the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <mutex>
#include <numeric>
#include <optional>
#include <system_error>

#include "cpu.hpp"
#include "engine.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace gptwo;

namespace {

// An engine and the lock that makes its calls take turns: several Python threads may hold one.
struct Shared {
  explicit Shared(const Options& options) : engine(options) {}
  Engine engine;
  std::mutex lock;

  template <class Call>
  auto call(Call&& what) {
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> turn(lock);
    return what(engine);
  }
};

using Item = std::tuple<int, int, std::vector<int>>;  // sequence, count, guesses

std::vector<Work> as_work(const std::vector<Item>& items) {
  std::vector<Work> work;
  for (const auto& [sequence, count, guesses] : items) work.push_back({sequence, count, guesses});
  return work;
}

template <class T>
nb::ndarray<nb::numpy, T> array_of(T* data, std::initializer_list<size_t> shape) {
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

size_t total_of(const std::vector<Item>& items) {
  size_t total = 0;
  for (const auto& item : items) total += size_t(std::max(0, std::get<1>(item)));
  return total;
}

// A tensor of a model's file as bytes with its type and shape.
void add_weight(Shared& self, const std::string& name, nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> tensor,
                int type) {
  Source source;
  source.data = tensor.data();
  source.type = Stored(type);
  source.row_step = tensor.ndim() == 2 ? int64_t(tensor.shape(1)) : 1;
  self.call([&](Engine& engine) { engine.add_weight(name, source); });
}

using Floats = nb::ndarray<float, nb::ro, nb::c_contig, nb::device::cpu>;

Source source_of(const Floats& tensor) {
  return {tensor.data(), Stored::fp32, tensor.ndim() == 2 ? int64_t(tensor.shape(1)) : 1, 1};
}

void check_size(const Floats& tensor, size_t size, const char* name) {
  if (tensor.size() != size) throw std::invalid_argument(std::string(name) + " has another size than the network asks");
}

// down (R, inputs), up (outputs, R), biases (R,) and (outputs,) or of no length.
void add_branch(Shared& self, int adapter, int layer, int place, int bend, Floats down, Floats down_bias, Floats up,
                Floats up_bias) {
  const Shape& shape = self.engine.shape();
  const size_t C = size_t(shape.n_embd), inner = size_t(shape.n_inner), R = down.ndim() == 2 ? down.shape(0) : 0;
  const size_t inputs = Place(place) == Place::down ? inner : C;
  const size_t outputs = Place(place) == Place::attention ? 3 * C : Place(place) == Place::up ? inner : C;
  if (!R || layer < 0 || layer >= shape.n_layer || place < 0 || place > int(Place::behind_mlp))
    throw std::invalid_argument("a branch is of a layer, at a place, with at least one number in its middle");
  check_size(down, R * inputs, "down");
  check_size(up, R * outputs, "up");
  if (down_bias.size()) check_size(down_bias, R, "down_bias");
  if (up_bias.size()) check_size(up_bias, outputs, "up_bias");
  const auto bias = [](const Floats& tensor) { return tensor.size() ? source_of(tensor) : Source{}; };
  self.call([&](Engine& engine) {
    engine.network().add_branch(adapter, layer, Place(place), Bend(bend), int(R), source_of(down), bias(down_bias),
                                source_of(up), bias(up_bias));
  });
}

// A part of the packed weights: its name, type and shape, and its bytes, which stay the engine's.
using Part = std::tuple<std::string, std::string, std::vector<size_t>, nb::ndarray<nb::numpy, const uint8_t>>;

std::vector<Part> parts_of(nb::handle self) {
  std::vector<Part> parts;
  for (const Piece& piece : nb::cast<Shared&>(self).engine.network().pieces())
    parts.emplace_back(piece.name, piece.type, piece.shape,
                       nb::ndarray<nb::numpy, const uint8_t>(piece.data, {piece.bytes}, self));
  return parts;
}

uint64_t read_packed(Shared& self, int file, int64_t start) {
  try {
    return self.call([&](Engine& engine) { return engine.network().read(file, start); });
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
}

// Keys and values (layers, heads, tokens, width of a head).
void begin_with(Shared& self, int adapter, Floats keys, Floats values) {
  const Shape& shape = self.engine.shape();
  if (keys.ndim() != 4) throw std::invalid_argument("keys are of layers, heads and tokens");
  const size_t tokens = keys.shape(2), size = tokens * size_t(shape.n_layer) * size_t(shape.n_embd);
  check_size(keys, size, "keys");
  check_size(values, size, "values");
  self.call([&](Engine& engine) { engine.network().begin_with(adapter, int(tokens), keys.data(), values.data()); });
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native CPU engine: GPT-2 without PyTorch.";
  m.attr("PAGE") = PAGE;
  m.def("isas", &available_isas, "Instruction sets that were compiled in and can run here, slowest first.");

  m.def("page_bytes",
        [](int n_layer, int n_head, int head_dim, int cache) {
          return size_t(n_layer) * n_head * block_bytes(head_dim, Precision(cache));
        },
        "n_layer"_a, "n_head"_a, "head_dim"_a, "cache"_a, "Bytes of a cache page.");

  nb::exception<OutOfPages>(m, "OutOfPages", PyExc_MemoryError);

  nb::class_<Sampling>(m, "Sampling", "How the tokens of one sequence are chosen; see SamplingOptions.")
      .def(nb::init<>())
      .def_rw("temperature", &Sampling::temperature)
      .def_rw("top_k", &Sampling::top_k)
      .def_rw("top_p", &Sampling::top_p)
      .def_rw("min_p", &Sampling::min_p)
      .def_rw("repetition_penalty", &Sampling::repetition_penalty)
      .def_rw("presence_penalty", &Sampling::presence_penalty)
      .def_rw("frequency_penalty", &Sampling::frequency_penalty)
      .def_rw("no_repeat_ngram", &Sampling::no_repeat_ngram)
      .def_rw("min_new_tokens", &Sampling::min_new_tokens)
      .def_rw("logit_bias", &Sampling::logit_bias)
      .def_rw("end_id", &Sampling::end_id)
      .def_rw("vocab_size", &Sampling::vocab_size)
      .def_rw("key", &Sampling::key)
      .def_rw("logprobs", &Sampling::logprobs);

  nb::class_<Shared>(m, "Engine", "Weights, a cache, and the sequences in it.")
      .def("__init__",
           [](Shared* self, int vocab_size, int n_positions, int n_embd, int n_layer, int n_head, int n_inner,
              float layer_norm_epsilon, bool scale_by_layer, int precision, int head, int cache,
              const std::string& isa, int threads, int max_tokens, size_t cache_bytes, bool share) {
             Options options;
             options.shape = {vocab_size, n_positions, n_embd, n_layer,
                              n_head,     n_inner,     layer_norm_epsilon, scale_by_layer};
             options.precision = Precision(precision);
             options.head = Precision(head);
             options.cache = Precision(cache);
             options.isa = isa;
             options.threads = threads;
             options.max_tokens = max_tokens;
             options.cache_bytes = cache_bytes;
             options.share = share;
             new (self) Shared(options);
           },
           "vocab_size"_a, "n_positions"_a, "n_embd"_a, "n_layer"_a, "n_head"_a, "n_inner"_a, "layer_norm_epsilon"_a,
           "scale_by_layer"_a, "precision"_a, "head"_a, "cache"_a, "isa"_a, "threads"_a, "max_tokens"_a,
           "cache_bytes"_a, "share"_a)
      .def("add_weight", &add_weight, "name"_a, "tensor"_a, "type"_a)
      .def("make_room", [](Shared& self, bool own_head) { self.engine.network().make_room(own_head); }, "own_head"_a)
      .def("pieces", &parts_of)
      .def("checksum", [](Shared& self) { return self.call([](Engine& e) { return e.network().checksum(); }); })
      .def("read_packed", &read_packed, "file"_a, "start"_a)
      .def("missing", [](Shared& self) { return self.engine.missing(); })
      .def("open",
           [](Shared& self, std::vector<int> tokens, int prompt, int first, const Sampling& sampling, int adapter) {
             return self.call([&](Engine& e) { return e.open(std::move(tokens), prompt, first, sampling, adapter); });
           },
           "tokens"_a, "prompt"_a, "first"_a, "sampling"_a, "adapter"_a = -1)
      .def("add_adapter", [](Shared& self) { return self.call([](Engine& e) { return e.network().add_adapter(); }); })
      .def("add_branch", &add_branch, "adapter"_a, "layer"_a, "place"_a, "bend"_a, "down"_a, "down_bias"_a, "up"_a,
           "up_bias"_a)
      .def("begin_with", &begin_with, "adapter"_a, "keys"_a, "values"_a)
      .def("set_adapter", [](Shared& self, int adapter) { self.call([&](Engine& e) { e.set_adapter(adapter); }); })
      .def("drop_adapter", [](Shared& self, int adapter) { self.call([&](Engine& e) { e.drop_adapter(adapter); }); })
      .def("fork",
           [](Shared& self, int id, const Sampling& sampling) {
             return self.call([&](Engine& e) { return e.fork(id, sampling); });
           })
      .def("close", [](Shared& self, int id) { self.call([&](Engine& e) { e.close(id); }); })
      .def("rewind", [](Shared& self, int id) { self.call([&](Engine& e) { e.rewind(id); }); })
      .def("slide", [](Shared& self, int id, int first) { self.call([&](Engine& e) { e.slide(id, first); }); })
      .def("append", [](Shared& self, int id, int token) { self.call([&](Engine& e) { e.append(id, token); }); })
      .def("left", [](Shared& self, int id) { return self.call([&](Engine& e) { return e.left(id); }); })
      .def("forget", [](Shared& self) { self.call([&](Engine& e) { e.forget(); }); })
      .def("step",
           [](Shared& self, const std::vector<Item>& items) {
             const auto chosen = self.call([&](Engine& e) { return e.step(as_work(items)); });
             std::vector<std::vector<std::pair<int, float>>> result;
             for (const auto& choices : chosen) {
               result.emplace_back();
               for (const Choice& choice : choices) result.back().emplace_back(choice.token, choice.logprob);
             }
             return result;
           })
      .def("logits",
           [](Shared& self, const std::vector<Item>& items, std::optional<std::vector<int>> wanted) {
             std::vector<int> rows;
             if (wanted) {
               rows = std::move(*wanted);
             } else {
               for (int at = 0; const Item& one : items) rows.push_back((at += std::get<1>(one)) - 1);
             }
             const size_t V = size_t(self.engine.shape().vocab_size);
             auto out = std::make_unique<float[]>(rows.size() * V);
             self.call([&](Engine& e) { e.logits(as_work(items), rows, out.get()); });
             return array_of(out.release(), {rows.size(), V});
           },
           "items"_a, "rows"_a = nb::none(), "Logits after the last token of each item, or after the tokens at rows.")
      .def("hidden",
           [](Shared& self, const std::vector<Item>& items, std::optional<std::vector<int>> wanted) {
             std::vector<int> rows = wanted ? std::move(*wanted) : std::vector<int>(total_of(items));
             if (!wanted) std::iota(rows.begin(), rows.end(), 0);
             const size_t C = size_t(self.engine.shape().n_embd);
             auto out = std::make_unique<float[]>(rows.size() * C);
             self.call([&](Engine& e) { e.hidden(as_work(items), rows, out.get()); });
             return array_of(out.release(), {rows.size(), C});
           },
           "items"_a, "rows"_a = nb::none())
      .def("score",
           [](Shared& self, int id, int count) {
             auto logprobs = std::make_unique<double[]>(size_t(count));
             auto likeliest = std::make_unique<bool[]>(size_t(count));
             self.call([&](Engine& e) { e.score({id, count, {}}, logprobs.get(), likeliest.get()); });
             return std::make_pair(array_of(logprobs.release(), {size_t(count)}),
                                   array_of(likeliest.release(), {size_t(count)}));
           })
      .def("read_through", [](Shared& self) { return self.call([](Engine& e) { return e.network().read_through(); }); })
      .def("usage",
           [](Shared& self) {
             const Usage usage = self.call([](Engine& e) { return e.usage(); });
             nb::dict found;
             found["sequences"] = usage.sequences;
             found["pages"] = usage.pages;
             found["cached_pages"] = usage.cached_pages;
             found["page_bytes"] = usage.page_bytes;
             found["limit_pages"] = usage.limit_pages;
             found["cache_bytes"] = usage.cache_bytes;
             found["weight_bytes"] = usage.weight_bytes;
             found["screened"] = usage.screened;
             found["screened_panels"] = usage.screened_panels;
             return found;
           })
      .def_prop_ro("max_tokens", [](Shared& self) { return self.engine.max_tokens(); })
      .def_prop_ro("isa", [](Shared& self) { return std::string(self.engine.isa()); });
}

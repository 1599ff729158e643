// The vocabulary projection for those who want the largest logits only: all outputs in int8 first, with a bound on how
// far each may be off, then exactly those that may still be among the largest.
//
// With w the weights of an output and h a hidden state, w' and h' what int8 makes of them:
//   |w h - w' h'| <= |w - w'| |h| + |w'| |h - h'|   (Cauchy and Schwarz)
// What is computed exactly is computed by the kernel of the whole projection, so that nobody can tell the difference.
#pragma once

#include <vector>

#include "pack.hpp"

namespace gptwo {

class Screen {
 public:
  Screen() = default;
  Screen(Team& team, const Packed& head);
  explicit operator bool() const { return !away_.empty(); }
  const Matrix& matrix() const { return small_.matrix; }
  size_t bytes() const { return arena_.bytes() + away_.size() * 8; }

  // Panels with outputs below `vocab_size` that may be among the `wanted` largest, ascending; empty where the numbers
  // are not numbers. products: (V) in int8, of row r of `bytes`; hidden: (C) as the exact product sees it.
  std::vector<int> panels(const Kernels& kernels, const float* products, int vocab_size, int wanted,
                          const float* hidden, const Inputs& bytes, int r) const;

 private:
  Arena arena_;
  Packed small_;
  std::vector<float> away_, length_;  // |w - w'| and |w'| of every output
};

}  // namespace gptwo

// Which instruction sets this processor and its system have.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace gptwo {

// Names of the instruction sets that were compiled in and can run here, slowest first.
std::vector<std::string> available_isas();

// The table of a name; of the fastest for "". Throws std::invalid_argument for one that cannot run here.
const Kernels* choose_kernels(const std::string& name);

}  // namespace gptwo

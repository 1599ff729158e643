// The table of one instruction set, from the templates.
#pragma once

#include "attend.hpp"
#include "product.hpp"
#include "rows.hpp"

#define GPTWO_KERNELS(FUNCTION, VECTOR, NAME)                                                              \
  namespace gptwo {                                                                                        \
  const Kernels* FUNCTION() {                                                                              \
    static const Kernels table{NAME,           &::product<VECTOR>,  &::prepare<VECTOR>,                    \
                               &::normalise<VECTOR>, &::attend<VECTOR>, &::remember<VECTOR>, &::exponentials<VECTOR>, \
                               &::first_largest<VECTOR>, &::bounds<VECTOR>, &::bend<VECTOR>};                \
    return &table;                                                                                         \
  }                                                                                                        \
  }

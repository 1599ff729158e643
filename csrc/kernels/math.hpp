// Exponential and GELU on vectors of 16.
#pragma once

#include "../kernels.hpp"

namespace {

// exp(x) to about one unit in the last place, for x in -87..88 (what lies outside is moved there): 2^n * e^r with
// |r| <= ln(2)/2 and a polynomial for e^r (coefficients of Cephes' expf, S. Moshier).
template <class V>
inline typename V::F exponential(typename V::F x) {
  x = V::min(V::max(x, V::set1(-87.0f)), V::set1(88.0f));
  const auto n = V::round(V::mul(x, V::set1(1.44269504088896341f)));
  auto r = V::fma(n, V::set1(-0.693359375f), x);
  r = V::fma(n, V::set1(2.12194440e-4f), r);
  auto p = V::set1(1.9875691500e-4f);
  p = V::fma(p, r, V::set1(1.3981999507e-3f));
  p = V::fma(p, r, V::set1(8.3334519073e-3f));
  p = V::fma(p, r, V::set1(4.1665795894e-2f));
  p = V::fma(p, r, V::set1(1.6666665459e-1f));
  p = V::fma(p, r, V::set1(5.0000001201e-1f));
  p = V::fma(V::mul(r, r), p, V::add(r, V::set1(1.0f)));
  return V::scale_by_power(p, n);
}

// GELU in its tanh form: 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class V>
inline typename V::F gelu(typename V::F x) {
  const auto cubic = V::fma(V::mul(V::mul(x, x), V::set1(0.044715f)), x, x);
  const auto e = exponential<V>(V::mul(cubic, V::set1(-1.5957691216057308f)));
  return V::div(x, V::add(V::set1(1.0f), e));
}

}  // namespace

// Eight floats at a time, by the vectors of GCC and Clang, and the functions that the kernels need of them.
// Sums go in one fixed order everywhere, so that a result does not depend on what else is computed with it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace early_exit {

typedef float Floats __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(8)));
constexpr int WIDTH = 8;

inline Floats load(const float* from) {
  Floats values;
  memcpy(&values, from, sizeof values);
  return values;
}

inline void store(float* to, Floats values) { memcpy(to, &values, sizeof values); }

inline Floats all(float value) { return Floats{value, value, value, value, value, value, value, value}; }

// a · b + c. In one rounding where the processor has it, in every loop: the compiler itself must not choose
// (-ffp-contract=off), or two loops would differ in the last bit.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FMA__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_FEATURE_FMA)
  for (int i = 0; i < WIDTH; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#else
  return a * b + c;
#endif
}

inline Floats choose(Ints where, Floats yes, Floats no) {
  return (Floats)((where & (Ints)yes) | (~where & (Ints)no));
}

inline Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }

inline float sum(Floats values) {
  float halves[4];
  for (int i = 0; i < 4; i++) halves[i] = values[i] + values[i + 4];
  return (halves[0] + halves[2]) + (halves[1] + halves[3]);
}

// The sums of eight vectors, each as `sum` gives it.
inline Floats sums(const Floats* values) {
  Floats halves[4], quarters[2];
  for (int i = 0; i < 4; i++) {
    const Floats a = values[2 * i], b = values[2 * i + 1];
    halves[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < 2; i++) {
    const Floats a = halves[2 * i], b = halves[2 * i + 1];
    quarters[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
                  __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  // In the order 0, 2 | 1, 3 of four vectors each.
  const Floats totals = __builtin_shufflevector(quarters[0], quarters[1], 0, 2, 8, 10, 4, 6, 12, 14) +
                        __builtin_shufflevector(quarters[0], quarters[1], 1, 3, 9, 11, 5, 7, 13, 15);
  return __builtin_shufflevector(totals, totals, 0, 4, 1, 5, 2, 6, 3, 7);
}

inline float largest(Floats values) {
  float best = values[0];
  for (int i = 1; i < WIDTH; i++) best = values[i] > best ? values[i] : best;
  return best;
}

// bfloat16 is the upper half of a float.
inline Floats load(const uint16_t* from) {
#if defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
  return (Floats)_mm256_slli_epi32(wide, 16);
#else
  Ints wide;
  for (int i = 0; i < WIDTH; i++) wide[i] = (int32_t)((uint32_t)from[i] << 16);
  return (Floats)wide;
#endif
}

// Up to eight floats, the others 0.
inline Floats load_some(const float* from, int count) {
  if (count >= WIDTH) return load(from);
  float values[WIDTH] = {};
  for (int i = 0; i < count; i++) values[i] = from[i];
  return load(values);
}

inline void store_some(float* to, Floats values, int count) {
  if (count >= WIDTH) return store(to, values);
  for (int i = 0; i < count; i++) to[i] = values[i];
}

inline float to_float(float value) { return value; }

inline float to_float(uint16_t value) {
  const uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

inline void from_float(float value, float* to) { *to = value; }

inline void from_float(float value, uint16_t* to) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    *to = (uint16_t)(bits >> 16) | 0x40;  // NaN stays NaN
  } else {
    *to = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
  }
}

// exp, within two units of the last place; 0 below −87, infinite above 88.7, NaN for NaN. After Cephes: a
// power of two times a polynomial of what remains, within ±½ log 2.
inline Floats exponential(Floats x) {
  const Floats low = all(-87.f), high = all(88.7f), magic = all(12582912.f);  // 1.5 · 2^23: rounds to whole
  Floats inside = choose(x > low, x, low);
  inside = choose(inside < high, inside, high);
  const Floats shifted = multiply_add(inside, all(1.44269504088896341f), magic);
  const Floats power = shifted - magic;
  Floats rest = multiply_add(power, all(-0.693359375f), inside);
  rest = multiply_add(power, all(2.12194440e-4f), rest);
  Floats value = all(1.9875691500e-4f);
  value = multiply_add(value, rest, all(1.3981999507e-3f));
  value = multiply_add(value, rest, all(8.3334519073e-3f));
  value = multiply_add(value, rest, all(4.1665795894e-2f));
  value = multiply_add(value, rest, all(1.6666665459e-1f));
  value = multiply_add(value, rest, all(5.0000001201e-1f));
  value = multiply_add(value, rest * rest, rest + 1.f);
  // Twice by half the power: its whole range is wider than a float's exponent.
  const Ints whole = (Ints)shifted - (Ints)magic;
  const Ints half = whole >> 1;
  value = value * (Floats)((half + 127) << 23) * (Floats)((whole - half + 127) << 23);
  value = choose(x > high, all(INFINITY), value);
  value = choose(x < low, all(0.f), value);
  return choose(x == x, value, x);
}

inline float exponential(float x) { return exponential(all(x))[0]; }

}  // namespace early_exit

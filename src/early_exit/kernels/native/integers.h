// Sums of products of integers, of eight outputs at a time: weights of two or four inputs of each output, by the same
// inputs of one item.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace early_exit {

#if defined(__AVX2__)
typedef __m256i Pairs;
inline Pairs pair_of(const int16_t* inputs) {
  int32_t both;
  memcpy(&both, inputs, sizeof both);
  return _mm256_set1_epi32(both);
}
inline Pairs weights_of(const int8_t* eight_outputs) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)eight_outputs));
}
inline void add_products(Ints& sum, Pairs weights, Pairs inputs) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  sum = (Ints)_mm256_dpwssd_epi32((__m256i)sum, weights, inputs);
#elif defined(__AVXVNNI__)
  sum = (Ints)_mm256_dpwssd_avx_epi32((__m256i)sum, weights, inputs);
#else
  sum += (Ints)_mm256_madd_epi16(weights, inputs);
#endif
}
struct Nibbles {
  Pairs of[4];
  explicit Nibbles(const uint8_t* four_inputs) {
    const __m256i words = _mm256_loadu_si256((const __m256i*)four_inputs), mask = _mm256_set1_epi16(15);
    of[0] = _mm256_and_si256(words, mask);
    of[1] = _mm256_and_si256(_mm256_srli_epi16(words, 4), mask);
    of[2] = _mm256_and_si256(_mm256_srli_epi16(words, 8), mask);
    of[3] = _mm256_srli_epi16(words, 12);
  }
};
#else
struct Pairs {
  int16_t of[2 * WIDTH];
};
inline Pairs pair_of(const int16_t* inputs) {
  Pairs pairs;
  for (int i = 0; i < 2 * WIDTH; i++) pairs.of[i] = inputs[i % 2];
  return pairs;
}
inline Pairs weights_of(const int8_t* eight_outputs) {
  Pairs pairs;
  for (int i = 0; i < 2 * WIDTH; i++) pairs.of[i] = eight_outputs[i];
  return pairs;
}
inline void add_products(Ints& sum, const Pairs& weights, const Pairs& inputs) {
  for (int i = 0; i < WIDTH; i++) {
    sum[i] += weights.of[2 * i] * inputs.of[2 * i] + weights.of[2 * i + 1] * inputs.of[2 * i + 1];
  }
}
struct Nibbles {
  Pairs of[4];
  explicit Nibbles(const uint8_t* four_inputs) {
    for (int word = 0; word < 2 * WIDTH; word++) {
      const int both = four_inputs[2 * word] | four_inputs[2 * word + 1] << 8;
      for (int nibble = 0; nibble < 4; nibble++) of[nibble].of[word] = (int16_t)(both >> 4 * nibble & 15);
    }
  }
};
#endif

// Two inputs at a time, in 16 bits.
struct InPairs {
  using Input = int16_t;
  static constexpr int AT_ONCE = 2;
  static Pairs weights(const int8_t* eight_outputs) { return weights_of(eight_outputs); }
  static Pairs inputs(const int16_t* of_item) { return pair_of(of_item); }
  static void add(Ints& sum, const Pairs& weights, const Pairs& inputs) { add_products(sum, weights, inputs); }
};

// Whether one instruction sums four products of a weight in 8 bits and an input of 0 to 255.
#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
#define EARLY_EXIT_QUADS 1
constexpr bool QUADS = true;
// Four inputs at a time, levels from 0.
struct InQuads {
  using Input = uint8_t;
  static constexpr int AT_ONCE = 4;
  static __m256i weights(const int8_t* eight_outputs) { return _mm256_loadu_si256((const __m256i*)eight_outputs); }
  static __m256i inputs(const uint8_t* of_item) {
    int32_t four;
    memcpy(&four, of_item, sizeof four);
    return _mm256_set1_epi32(four);
  }
  static void add(Ints& sum, __m256i weights, __m256i inputs) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    sum = (Ints)_mm256_dpbusd_epi32((__m256i)sum, inputs, weights);
#else
    sum = (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, inputs, weights);
#endif
  }
};
#else
constexpr bool QUADS = false;
#endif

}  // namespace early_exit

// Attention of one query over the keys and values of one head.
#pragma once

#include "simd.h"

namespace early_exit {

// Eight partial sums of q · k, [size]; what is beyond a multiple of eight is in the first.
template <class Value>
inline Floats partial_dot(const float* query, const Value* key, int size) {
  Floats even = {}, odd = {};
  int i = 0;
  for (; i + 2 * WIDTH <= size; i += 2 * WIDTH) {
    even = multiply_add(load(query + i), load(key + i), even);
    odd = multiply_add(load(query + i + WIDTH), load(key + i + WIDTH), odd);
  }
  for (; i + WIDTH <= size; i += WIDTH) even = multiply_add(load(query + i), load(key + i), even);
  Floats total = even + odd;
  for (; i < size; i++) total[0] += query[i] * to_float(key[i]);
  return total;
}

template <class Value>
inline float dot(const float* query, const Value* key, int size) {
  return sum(partial_dot(query, key, size));
}

// q · k + bias for each key, `stride` apart. bias: of each key, or null.
template <class Value>
inline void score(const float* query, const Value* keys, size_t stride, const float* bias, int count, int size,
                  float* scores) {
  int i = 0;
  for (; i + WIDTH <= count; i += WIDTH) {
    Floats partial[WIDTH];
    for (int key = 0; key < WIDTH; key++) partial[key] = partial_dot(query, keys + (i + key) * stride, size);
    store(scores + i, bias == nullptr ? sums(partial) : sums(partial) + load(bias + i));
  }
  for (; i < count; i++) scores[i] = dot(query, keys + i * stride, size) + (bias == nullptr ? 0 : bias[i]);
}

// scores [count] become exp(score − largest); returns one over their sum.
inline float exponentials(float* scores, int count) {
  Floats highest = all(scores[0]);
  int i = 0;
  for (; i + WIDTH <= count; i += WIDTH) highest = larger(load(scores + i), highest);
  float most = largest(highest);
  for (; i < count; i++) most = scores[i] > most ? scores[i] : most;
  Floats totals = {};
  i = 0;
  for (; i + WIDTH <= count; i += WIDTH) {
    const Floats shares = exponential(load(scores + i) - most);
    totals += shares;
    store(scores + i, shares);
  }
  float total = sum(totals);
  for (; i < count; i++) {
    scores[i] = exponential(scores[i] - most);
    total += scores[i];
  }
  return 1 / total;
}

// result [size] = Σ weights · values, times `factor`. values: [count, size].
template <class Value>
inline void weighted_sum(const float* weights, const Value* values, int count, int size, float factor,
                         float* result) {
  constexpr int AT_ONCE = 8;
  int first = 0;
  for (; first + AT_ONCE * WIDTH <= size; first += AT_ONCE * WIDTH) {
    Floats sums[AT_ONCE] = {};
    for (int i = 0; i < count; i++) {
      const Floats weight = all(weights[i]);
      const Value* row = values + (size_t)i * size + first;
      for (int part = 0; part < AT_ONCE; part++) {
        sums[part] = multiply_add(weight, load(row + part * WIDTH), sums[part]);
      }
    }
    for (int part = 0; part < AT_ONCE; part++) store(result + first + part * WIDTH, sums[part] * factor);
  }
  for (; first + WIDTH <= size; first += WIDTH) {
    Floats sums = {};
    for (int i = 0; i < count; i++) {
      sums = multiply_add(all(weights[i]), load(values + (size_t)i * size + first), sums);
    }
    store(result + first, sums * factor);
  }
  for (; first < size; first++) {
    float total = 0;
    for (int i = 0; i < count; i++) total += weights[i] * to_float(values[(size_t)i * size + first]);
    result[first] = total * factor;
  }
}

// query, result: [size]. keys, values: [count, size]. bias: of each key, or null. scores: room for `count`.
template <class Value>
inline void attend(const float* query, const Value* keys, const Value* values, const float* bias, int count,
                   int size, float* scores, float* result) {
  score(query, keys, size, bias, count, size, scores);
  const float factor = exponentials(scores, count);
  weighted_sum(scores, values, count, size, factor, result);
}

}  // namespace early_exit

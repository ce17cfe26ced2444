#include "matrix.h"

#include <algorithm>

#include "integers.h"
#include "simd.h"

namespace early_exit {
namespace {

// Weights are read once for few items, and from memory: so far ahead that they are there in time. The processor's own
// prefetching stops at every page.
constexpr size_t AHEAD = 4096;
template <int ITEMS>
inline void fetch_ahead(const void* weights) {
  if (ITEMS < TILE) __builtin_prefetch((const char*)weights + AHEAD);
}

template <int ITEMS, class Weight>
void multiply_floats(const Weight* weights, int width, const float* inputs, float (*results)[PANEL]) {
  Floats sums[ITEMS][2] = {};
#pragma GCC unroll 4
  for (int input = 0; input < width; input++) {
    const Floats low = load(weights + (size_t)input * PANEL);
    const Floats high = load(weights + (size_t)input * PANEL + WIDTH);
    for (int item = 0; item < ITEMS; item++) {
      const Floats value = all(inputs[(size_t)input * ITEMS + item]);
      sums[item][0] = multiply_add(low, value, sums[item][0]);
      sums[item][1] = multiply_add(high, value, sums[item][1]);
    }
  }
  for (int item = 0; item < ITEMS; item++) {
    store(results[item], sums[item][0]);
    store(results[item] + WIDTH, sums[item][1]);
  }
}

inline Floats as_floats(Ints values) { return __builtin_convertvector(values, Floats); }

inline void scale(const Matrix& matrix, int panel, float factor, const Ints* sums, float* results) {
  for (int half = 0; half < 2; half++) {
    const Floats scales = load(matrix.scales.data() + (size_t)panel * PANEL + half * WIDTH);
    store(results + half * WIDTH, as_floats(sums[half]) * (scales * factor));
  }
}

// Products of weights in 8 bits, added to `sums`. Step: how many inputs are multiplied at once, and how.
// Inlined, so that sums are in registers.
template <int ITEMS, class Step>
inline __attribute__((always_inline)) void multiply_bytes(const Matrix& matrix, const typename Step::Input* inputs, const float* factors, int panel,
                    Ints (*sums)[2], float (*results)[PANEL]) {
  const int width = matrix.padded_inputs;
  const int8_t* weights = (const int8_t*)matrix.weights.get() + (size_t)panel * width * PANEL;
#pragma GCC unroll 4
  for (int input = 0; input < width; input += Step::AT_ONCE) {
    fetch_ahead<ITEMS>(weights + (size_t)input * PANEL);
    const auto low = Step::weights(weights + (size_t)input * PANEL);
    const auto high = Step::weights(weights + (size_t)input * PANEL + Step::AT_ONCE * WIDTH);
    for (int item = 0; item < ITEMS; item++) {
      const auto values = Step::inputs(inputs + (size_t)input * ITEMS + Step::AT_ONCE * item);
      Step::add(sums[item][0], low, values);
      Step::add(sums[item][1], high, values);
    }
  }
  for (int item = 0; item < ITEMS; item++) scale(matrix, panel, factors[item], sums[item], results[item]);
}

template <int ITEMS>
void multiply_int8(const Matrix& matrix, const int16_t* inputs, const float* factors, int panel,
                   float (*results)[PANEL]) {
  Ints sums[ITEMS][2] = {};
  multiply_bytes<ITEMS, InPairs>(matrix, inputs, factors, panel, sums, results);
}

#if EARLY_EXIT_QUADS
template <int ITEMS>
void multiply_w8a8(const Matrix& matrix, const uint8_t* inputs, const int32_t* zeros, const float* factors, int panel,
                   float (*results)[PANEL]) {
  Ints sums[ITEMS][2], of_weights[2];
  memcpy(of_weights, matrix.sums.data() + (size_t)panel * PANEL, sizeof of_weights);
  for (int item = 0; item < ITEMS; item++) {
    for (int half = 0; half < 2; half++) sums[item][half] = of_weights[half] * -zeros[item];
  }
  multiply_bytes<ITEMS, InQuads>(matrix, inputs, factors, panel, sums, results);
}
#endif

template <int ITEMS>
void multiply_int4(const Matrix& matrix, const int16_t* inputs, const float* factors, const int32_t* group_sums,
                   int panel, float (*results)[PANEL]) {
  const int width = matrix.padded_inputs, groups = width / GROUP;
  const uint8_t* weights = (const uint8_t*)matrix.weights.get() + (size_t)panel * width * PANEL / 2;
  const uint8_t* scales = matrix.group_scales.get() + (size_t)panel * groups * PANEL;
  Ints sums[ITEMS][2] = {};
  for (int group = 0; group < groups; group++) {
    Ints part[ITEMS][2];
    for (int item = 0; item < ITEMS; item++) {
      part[item][0] = part[item][1] = Ints{} - ZERO * group_sums[item * groups + group];
    }
    for (int input = group * GROUP; input < (group + 1) * GROUP; input += 4) {
      fetch_ahead<ITEMS>(weights + (size_t)input * PANEL / 2);
      const Nibbles nibbles(weights + (size_t)input * PANEL / 2);
      for (int item = 0; item < ITEMS; item++) {
        const int16_t* own = inputs + (size_t)input * ITEMS + 2 * item;
        const Pairs first = pair_of(own), second = pair_of(own + 2 * ITEMS);
        add_products(part[item][0], nibbles.of[0], first);
        add_products(part[item][1], nibbles.of[1], first);
        add_products(part[item][0], nibbles.of[2], second);
        add_products(part[item][1], nibbles.of[3], second);
      }
    }
    Bytes bytes[2];
    memcpy(bytes, scales + (size_t)group * PANEL, sizeof bytes);
    const Ints own_scales[] = {__builtin_convertvector(bytes[0], Ints), __builtin_convertvector(bytes[1], Ints)};
    for (int item = 0; item < ITEMS; item++) {
      for (int half = 0; half < 2; half++) sums[item][half] += part[item][half] * own_scales[half];
    }
  }
  for (int item = 0; item < ITEMS; item++) scale(matrix, panel, factors[item], sums[item], results[item]);
}

template <int ITEMS>
void multiply_some(const Matrix& matrix, const Prepared& inputs, int first, int panel, float (*results)[PANEL]) {
  const size_t place = (size_t)first * inputs.padded_inputs, weight = (size_t)panel * matrix.inputs * PANEL;
  switch (matrix.kind) {
    case Kind::FLOAT32:
      return multiply_floats<ITEMS>((const float*)matrix.weights.get() + weight, matrix.inputs,
                                    inputs.floats.data() + place, results);
    case Kind::BFLOAT16:
      return multiply_floats<ITEMS>((const uint16_t*)matrix.weights.get() + weight, matrix.inputs,
                                    inputs.floats.data() + place, results);
    case Kind::W8A8:
#if EARLY_EXIT_QUADS
      return multiply_w8a8<ITEMS>(matrix, inputs.levels.data() + place, inputs.zeros.data() + first,
                                  inputs.scales.data() + first, panel, results);
#endif
    case Kind::INT8:
      return multiply_int8<ITEMS>(matrix, inputs.integers.data() + place, inputs.scales.data() + first, panel,
                                  results);
    case Kind::INT4:
      return multiply_int4<ITEMS>(matrix, inputs.integers.data() + place, inputs.scales.data() + first,
                                  inputs.group_sums.data() + place / GROUP, panel, results);
  }
}

}  // namespace

void multiply_panel(const float* weights, int width, const float* inputs, int items, float (*results)[PANEL]) {
  switch (items) {
    case 1: return multiply_floats<1>(weights, width, inputs, results);
    case 2: return multiply_floats<2>(weights, width, inputs, results);
    case 3: return multiply_floats<3>(weights, width, inputs, results);
    case 4: return multiply_floats<4>(weights, width, inputs, results);
    case 5: return multiply_floats<5>(weights, width, inputs, results);
    default: return multiply_floats<TILE>(weights, width, inputs, results);
  }
}

void multiply(const Matrix& matrix, const Prepared& inputs, int first_item, int panel, float (*results)[PANEL]) {
  switch (std::min(TILE, inputs.items - first_item)) {
    case 1: return multiply_some<1>(matrix, inputs, first_item, panel, results);
    case 2: return multiply_some<2>(matrix, inputs, first_item, panel, results);
    case 3: return multiply_some<3>(matrix, inputs, first_item, panel, results);
    case 4: return multiply_some<4>(matrix, inputs, first_item, panel, results);
    case 5: return multiply_some<5>(matrix, inputs, first_item, panel, results);
    default: return multiply_some<TILE>(matrix, inputs, first_item, panel, results);
  }
}

}  // namespace early_exit

#include "matrix.h"

#include <algorithm>
#include <limits>

#include "simd.h"

namespace early_exit {
namespace {

// The largest magnitude of some values, not 0; false where one is not finite.
bool magnitude(const float* values, int count, float* most) {
  Floats highest = all(SMALLEST);
  Ints bad = {};
  for (int i = 0; i < count; i += WIDTH) {
    Floats value = load_some(values + i, count - i);
    value = larger(value, -value);
    highest = larger(value, highest);
    bad |= ~(value <= all(std::numeric_limits<float>::max()));
  }
  *most = largest(highest);
  for (int lane = 0; lane < WIDTH; lane++) {
    if (bad[lane] != 0) return false;
  }
  return true;
}

// Weights are read once for few items, and from memory: so far ahead that they are there in time. The processor's own
// prefetching stops at every page.
constexpr size_t AHEAD = 4096;
template <int ITEMS>
inline void fetch_ahead(const void* weights) {
  if (ITEMS <= 2) __builtin_prefetch((const char*)weights + AHEAD);
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

// Pairs of integers, by the pair's input of each item: sums[item][half] holds eight outputs.
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

inline Floats as_floats(Ints values) { return __builtin_convertvector(values, Floats); }

inline void scale(const Matrix& matrix, int panel, float factor, const Ints* sums, float* results) {
  for (int half = 0; half < 2; half++) {
    const Floats scales = load(matrix.scales.data() + (size_t)panel * PANEL + half * WIDTH);
    store(results + half * WIDTH, as_floats(sums[half]) * (scales * factor));
  }
}

template <int ITEMS>
void multiply_int8(const Matrix& matrix, const int16_t* inputs, const float* factors, int panel,
                   float (*results)[PANEL]) {
  const int width = matrix.padded_inputs;
  const int8_t* weights = (const int8_t*)matrix.weights.get() + (size_t)panel * width * PANEL;
  Ints sums[ITEMS][2] = {};
#pragma GCC unroll 4
  for (int input = 0; input < width; input += 2) {
    fetch_ahead<ITEMS>(weights + (size_t)input * PANEL);
    const Pairs low = weights_of(weights + (size_t)input * PANEL);
    const Pairs high = weights_of(weights + (size_t)input * PANEL + 2 * WIDTH);
    for (int item = 0; item < ITEMS; item++) {
      const Pairs values = pair_of(inputs + (size_t)input * ITEMS + 2 * item);
      add_products(sums[item][0], low, values);
      add_products(sums[item][1], high, values);
    }
  }
  for (int item = 0; item < ITEMS; item++) scale(matrix, panel, factors[item], sums[item], results[item]);
}

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
    case Kind::INT8:
      return multiply_int8<ITEMS>(matrix, inputs.integers.data() + place, inputs.scales.data() + first, panel,
                                  results);
    case Kind::INT4:
      return multiply_int4<ITEMS>(matrix, inputs.integers.data() + place, inputs.scales.data() + first,
                                  inputs.group_sums.data() + place / GROUP, panel, results);
  }
}

}  // namespace

void Prepared::resize(const Matrix& matrix, int count) {
  kind = matrix.kind;
  items = count;
  padded_inputs = matrix.padded_inputs;
  const size_t size = (size_t)items * padded_inputs;
  if (kind == Kind::FLOAT32 || kind == Kind::BFLOAT16) {
    floats.resize(size);
    return;
  }
  integers.resize(size);
  scales.resize(items);
  if (kind == Kind::INT4) group_sums.resize(size / GROUP);
}

void Prepared::set(const Matrix& matrix, int item, const float* values, float factor) {
  const int width = padded_inputs, tile = item / TILE * TILE, together = std::min(TILE, items - tile);
  if (kind == Kind::FLOAT32 || kind == Kind::BFLOAT16) {
    float* own = floats.data() + (size_t)tile * width + item - tile;
    for (int i = 0; i < width; i++) own[(size_t)i * together] = values[i] * factor;
    return;
  }
  float most;
  const bool finite = magnitude(values, matrix.inputs, &most);
  scales[item] = finite ? most * factor / (float)matrix.levels : std::numeric_limits<float>::quiet_NaN();
  const float step = finite ? (float)matrix.levels / most : 0;
  static thread_local std::vector<int16_t> rounded;
  rounded.assign(up_to_multiple(width, WIDTH), 0);
  for (int i = 0; finite && i < matrix.inputs; i += WIDTH) {
    const Floats value = load_some(values + i, matrix.inputs - i) * step;
    const Floats half = choose(value < all(0), all(-0.5f), all(0.5f));
    const Shorts whole = __builtin_convertvector(__builtin_convertvector(value + half, Ints), Shorts);
    memcpy(rounded.data() + i, &whole, sizeof whole);
  }
  int16_t* own = integers.data() + (size_t)tile * width + 2 * (item - tile);
  for (int i = 0; i < width; i += 2) memcpy(own + (size_t)i * together, rounded.data() + i, 2 * sizeof(int16_t));
  if (kind != Kind::INT4) return;
  for (int group = 0; group < width / GROUP; group++) {
    int32_t total = 0;
    for (int k = 0; k < GROUP; k++) total += rounded[group * GROUP + k];
    group_sums[(size_t)item * (width / GROUP) + group] = total;
  }
}

float Prepared::rounding_error(const Matrix& matrix, int item, const float* values) const {
  if (kind == Kind::FLOAT32 || kind == Kind::BFLOAT16) return 0;
  const int tile = item / TILE * TILE, together = std::min(TILE, items - tile);
  const int16_t* own = integers.data() + (size_t)tile * padded_inputs + 2 * (item - tile);
  double total = 0;
  for (int i = 0; i < matrix.inputs; i++) {
    const double rounded = (double)own[(size_t)(i / 2) * 2 * together + i % 2] * scales[item];
    total += (values[i] - rounded) * (values[i] - rounded);
  }
  return (float)std::sqrt(total);
}

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

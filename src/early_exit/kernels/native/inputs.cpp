// How inputs of products are rounded and laid out.
#include <algorithm>
#include <limits>

#include "integers.h"
#include "matrix.h"
#include "simd.h"

namespace early_exit {
namespace {

// The least and the largest of some values and 0; false where one is not finite.
bool range(const float* values, int count, float* least, float* most) {
  Floats lowest = {}, highest = {}, nothing = {};
  for (int i = 0; i < count; i += WIDTH) {
    const Floats value = load_some(values + i, count - i);
    highest = larger(value, highest);
    lowest = larger(-value, lowest);
    nothing += value * 0.f;  // NaN, where it is not finite
  }
  *least = -largest(lowest);
  *most = largest(highest);
  return sum(nothing) == 0;
}

// To the nearest integers, halves away from 0.
inline Ints rounded(Floats values) {
  return __builtin_convertvector(values + choose(values < all(0), all(-0.5f), all(0.5f)), Ints);
}

// What W8A8 rounds an item's values to: levels 0 to `most`, of which `zero` stands for 0.
struct Levels {
  float step;
  int zero, most;

  Ints of(Floats values) const {
    const Floats level = values * step + ((float)zero + 0.5f), highest = all((float)most);
    return __builtin_convertvector(choose(level < highest, level, highest), Ints);
  }
};

// Puts the first `count` values, rounded, and zeros after them beside those of the other items of a tile, in quads.
void lay_quads(const float* values, int count, Levels levels, int width, int together, uint8_t* own) {
  for (int i = 0; i < width; i += WIDTH) {
    const Bytes eight = __builtin_convertvector(levels.of(load_some(values + i, count - i)), Bytes);
    memcpy(own + (size_t)i * together, &eight, 4);
    if (i + 4 < width) memcpy(own + (size_t)(i + 4) * together, (const char*)&eight + 4, 4);
  }
}

// The same of whole numbers, in pairs.
void lay_pairs(const int16_t* values, int width, int together, int16_t* own) {
  for (int i = 0; i < width; i += 2) memcpy(own + (size_t)i * together, values + i, 2 * sizeof(int16_t));
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
  scales.resize(items);
  if (kind == Kind::W8A8 && QUADS) {
    levels.resize(size);
    zeros.resize(items);
    return;
  }
  integers.resize(size);
  if (kind == Kind::INT4) group_sums.resize(size / GROUP);
}

void Prepared::set(const Matrix& matrix, int item, const float* values, float factor) {
  const int width = padded_inputs, tile = item / TILE * TILE, together = std::min(TILE, items - tile);
  if (kind == Kind::FLOAT32 || kind == Kind::BFLOAT16) {
    float* own = floats.data() + (size_t)tile * width + item - tile;
    for (int i = 0; i < width; i++) own[(size_t)i * together] = values[i] * factor;
    return;
  }
  float least, most;
  const bool finite = range(values, matrix.inputs, &least, &most);
  // Levels lie from the least value on, or as many on both sides of 0.
  const float span = std::max(kind == Kind::W8A8 ? most - least : std::max(most, -least), SMALLEST);
  const float step = finite ? (float)matrix.levels / span : 0;
  scales[item] = finite ? span * factor / (float)matrix.levels : std::numeric_limits<float>::quiet_NaN();
  const int count = finite ? matrix.inputs : 0;
  const Levels levels_of_item{step, finite ? (int)(-least * step + 0.5f) : 0, matrix.levels};
  if (kind == Kind::W8A8 && QUADS) {
    zeros[item] = levels_of_item.zero;
    lay_quads(values, count, levels_of_item, width, together, levels.data() + (size_t)tile * width + 4 * (item - tile));
    return;
  }
  static thread_local std::vector<int16_t> integer;
  integer.assign(up_to_multiple(width, WIDTH), 0);
  for (int i = 0; i < count; i += WIDTH) {
    const Floats some = load_some(values + i, count - i);
    const Shorts whole = __builtin_convertvector(
        kind == Kind::W8A8 ? levels_of_item.of(some) - levels_of_item.zero : rounded(some * step), Shorts);
    memcpy(integer.data() + i, &whole, sizeof whole);
  }
  lay_pairs(integer.data(), width, together, integers.data() + (size_t)tile * width + 2 * (item - tile));
  if (kind != Kind::INT4) return;
  for (int group = 0; group < width / GROUP; group++) {
    int32_t total = 0;
    for (int k = 0; k < GROUP; k++) total += integer[group * GROUP + k];
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

}  // namespace early_exit

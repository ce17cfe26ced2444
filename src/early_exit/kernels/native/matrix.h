// Weight matrices, packed, and their products with the inputs of items.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"
#include "pool.h"

namespace early_exit {

// As in library.py. Weights of INT8, INT4 and W8A8 are integers, with a scale for each output; inputs of them are
// rounded to integers too, with a scale for each item, so that sums are exact whatever their order. Those of W8A8 have
// 8 bits, the others as many as the sums have room for.
enum class Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3, W8A8 = 4 };

// Outputs are packed in panels of so many, whose weights of one input, or of two, lie side by side.
constexpr int PANEL = 16;
constexpr int GROUP = 32;  // inputs that share a scale in INT4
constexpr int ZERO = 8;    // the nibble of INT4 that stands for 0
constexpr float SMALLEST = 1e-30f;  // instead of the scale 0 of zeros

inline int up_to_multiple(int number, int of) { return (number + of - 1) / of * of; }

struct Matrix {
  Kind kind = Kind::FLOAT32;
  int outputs = 0, inputs = 0;
  int panels = 0;         // of outputs, the last one filled up with zeros
  int padded_inputs = 0;  // a multiple of what the kind takes at once
  int levels = 0;         // largest magnitude of a rounded input; of W8A8 the largest of all its levels from 0
  Memory<char> weights;
  std::vector<float> scales;       // [panels · PANEL]
  Memory<uint8_t> group_scales;    // INT4: [panels, padded_inputs / GROUP, PANEL]
  std::vector<int32_t> sums;       // W8A8 in quads: of an output's weights [panels · PANEL]

  Matrix() = default;
  // weights: [outputs, inputs].
  Matrix(Kind kind, const float* weights, int outputs, int inputs);
  double bytes() const;  // that a product reads
};

constexpr int TILE = 6;  // items that are multiplied together: as many as registers have room for

// Inputs of items as a kind of matrix takes them. Those of a tile lie side by side: [tiles][inputs][items of
// the tile], of INT8, INT4 and W8A8 in pairs, [tiles][pairs][items of the tile][2]. Where the processor multiplies 8
// bits, those of W8A8 lie in quads, as levels from 0.
struct Prepared {
  Kind kind = Kind::FLOAT32;
  int items = 0, padded_inputs = 0;
  std::vector<float> floats;
  std::vector<int16_t> integers;
  std::vector<uint8_t> levels;      // W8A8 in quads
  std::vector<int32_t> zeros;       // W8A8 in quads: the level that stands for 0 [items]
  std::vector<float> scales;        // [items]
  std::vector<int32_t> group_sums;  // INT4: [items, padded_inputs / GROUP]

  void resize(const Matrix& matrix, int items);
  // An item's inputs [matrix.inputs], times `factor`.
  void set(const Matrix& matrix, int item, const float* values, float factor = 1);
  // ‖x − x̂‖, of an item's inputs and what they were rounded to. Not of W8A8.
  float rounding_error(const Matrix& matrix, int item, const float* values) const;
};

// The results of the items of one tile for one panel: [items][PANEL].
void multiply(const Matrix& matrix, const Prepared& inputs, int first_item, int panel, float (*results)[PANEL]);

// The same for weights [width][PANEL] and inputs [width][items] that lie so already, up to TILE items.
void multiply_panel(const float* weights, int width, const float* inputs, int items, float (*results)[PANEL]);

// Thousand multiplications, or what takes as long to read.
inline double effort(const Matrix& matrix, int items) {
  return 1e-3 * matrix.outputs * matrix.inputs * (items < 4 ? 1 : items / 4.0);
}

}  // namespace early_exit

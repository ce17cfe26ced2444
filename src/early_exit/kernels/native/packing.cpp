// How weights are rounded and laid out.
#include <cmath>
#include <limits>

#include "integers.h"
#include "matrix.h"
#include "simd.h"

namespace early_exit {
namespace {

int at_once(Kind kind) {
  switch (kind) {
    case Kind::INT4: return GROUP;
    case Kind::INT8: return 2;
    case Kind::W8A8: return QUADS ? 4 : 2;
    default: return 1;
  }
}

float largest_magnitude(const float* values, int count) {
  float most = 0;
  for (int i = 0; i < count; i++) most = std::fabs(values[i]) > most ? std::fabs(values[i]) : most;
  return most;
}

constexpr int MOST_LEVELS = 8191, LEVELS_OF_8_BITS = 255;

// Sums of `inputs` products of weights of at most `weight`, in 32 bits.
int levels_for(int inputs, int weight, int most = MOST_LEVELS) {
  const double room = 2147483647.0 / ((double)weight * inputs);
  return (int)(room < most ? room : most);
}

void pack_floats(Matrix& matrix, const float* weights) {
  const bool half = matrix.kind == Kind::BFLOAT16;
  matrix.weights = zeros<char>((size_t)matrix.panels * matrix.inputs * PANEL * (half ? 2 : 4));
  for (int output = 0; output < matrix.outputs; output++) {
    for (int input = 0; input < matrix.inputs; input++) {
      const size_t place = ((size_t)(output / PANEL) * matrix.inputs + input) * PANEL + output % PANEL;
      const float weight = weights[(size_t)output * matrix.inputs + input];
      if (half) {
        from_float(weight, (uint16_t*)matrix.weights.get() + place);
      } else {
        ((float*)matrix.weights.get())[place] = weight;
      }
    }
  }
}

// Pairs of inputs, or quads: [panel][pair][output][2].
void pack_int8(Matrix& matrix, const float* weights) {
  constexpr int LEVELS = 127;
  const int together = at_once(matrix.kind);
  const bool quads = together == 4;
  matrix.levels = levels_for(matrix.padded_inputs, LEVELS, matrix.kind == Kind::W8A8 ? LEVELS_OF_8_BITS : MOST_LEVELS);
  if (quads) matrix.sums.resize((size_t)matrix.panels * PANEL);
  matrix.weights = zeros<char>((size_t)matrix.panels * matrix.padded_inputs * PANEL);
  int8_t* packed = (int8_t*)matrix.weights.get();
  for (int output = 0; output < matrix.outputs; output++) {
    const float* row = weights + (size_t)output * matrix.inputs;
    const float most = largest_magnitude(row, matrix.inputs);
    const float scale = (most > SMALLEST ? most : SMALLEST) / LEVELS;
    matrix.scales[output] = scale;
    int8_t* panel = packed + (size_t)(output / PANEL) * matrix.padded_inputs * PANEL;
    for (int input = 0; input < matrix.inputs; input++) {
      if (!std::isfinite(row[input])) {  // not an integer: told by the scale
        matrix.scales[output] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      const int8_t level = (int8_t)std::lrint(row[input] / scale);
      panel[(input / together * PANEL + output % PANEL) * together + input % together] = level;
      if (quads) matrix.sums[output] += level;
    }
  }
}

// The step between the levels −8 to 7 that rounds weights with the least squared error, of some.
float best_step(const float* weights, int count) {
  const float most = largest_magnitude(weights, count);
  float best = SMALLEST, least = std::numeric_limits<float>::infinity();
  for (int tenths = 60; tenths <= 80 && most > SMALLEST; tenths += 2) {
    const float step = most / (tenths / 10.f);
    float error = 0;
    for (int i = 0; i < count; i++) {
      float level = std::nearbyint(weights[i] / step);
      level = level < -8 ? -8 : level > 7 ? 7 : level;
      error += (weights[i] - level * step) * (weights[i] - level * step);
    }
    if (error < least) least = error, best = step;
  }
  return best;
}

// A weight is scale · group scale · (nibble − ZERO), with a group scale of 1 to 63.
constexpr int GROUP_SCALES = 63;

// Where a weight's nibble is: four inputs of a panel are 32 bytes, 16 words. Word w, nibble j is output
// w / 2 + 8 · (j % 2), input w % 2 + 2 · (j / 2): a nibble of all words is a vector of pairs of inputs.
void set_nibble(uint8_t* four_inputs, int output, int input, int value) {
  const int word = 2 * (output % 8) + input % 2, nibble = output / 8 + 2 * (input / 2);
  four_inputs[2 * word + nibble / 2] |= (uint8_t)(value << 4 * (nibble % 2));
}

void pack_int4(Matrix& matrix, const float* weights) {
  const int groups = matrix.padded_inputs / GROUP;
  matrix.levels = levels_for(matrix.padded_inputs, 8 * GROUP_SCALES);
  matrix.weights = zeros<char>((size_t)matrix.panels * matrix.padded_inputs * PANEL / 2);
  matrix.group_scales = zeros<uint8_t>((size_t)matrix.panels * groups * PANEL);
  uint8_t* packed = (uint8_t*)matrix.weights.get();
  std::vector<float> group_steps(groups);
  for (int output = 0; output < matrix.outputs; output++) {
    const float* row = weights + (size_t)output * matrix.inputs;
    float most = SMALLEST;
    bool finite = true;
    for (int group = 0; group < groups; group++) {
      const int first = group * GROUP;
      const int count = matrix.inputs - first < GROUP ? matrix.inputs - first : GROUP;
      float step = SMALLEST;
      for (int i = 0; i < count; i++) finite = finite && std::isfinite(row[first + i]);
      if (finite) step = best_step(row + first, count);
      group_steps[group] = step;
      most = step > most ? step : most;
    }
    const float scale = most / GROUP_SCALES;
    matrix.scales[output] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
    if (!finite) continue;
    uint8_t* panel = packed + (size_t)(output / PANEL) * matrix.padded_inputs * PANEL / 2;
    for (int group = 0; group < groups; group++) {
      int factor = (int)std::lrint(group_steps[group] / scale);
      factor = factor < 1 ? 1 : factor > GROUP_SCALES ? GROUP_SCALES : factor;
      matrix.group_scales[((size_t)(output / PANEL) * groups + group) * PANEL + output % PANEL] = (uint8_t)factor;
      for (int input = group * GROUP; input < (group + 1) * GROUP && input < matrix.inputs; input++) {
        int value = (int)std::lrint(row[input] / (scale * factor));
        value = value < -8 ? -8 : value > 7 ? 7 : value;
        set_nibble(panel + (size_t)(input / 4) * 2 * PANEL, output % PANEL, input % 4, value + ZERO);
      }
    }
  }
}

}  // namespace

Matrix::Matrix(Kind kind, const float* values, int outputs, int inputs)
    : kind(kind),
      outputs(outputs),
      inputs(inputs),
      panels((outputs + PANEL - 1) / PANEL),
      padded_inputs(up_to_multiple(inputs, at_once(kind))),
      scales((size_t)panels * PANEL) {
  if (kind == Kind::INT8 || kind == Kind::W8A8) {
    pack_int8(*this, values);
  } else if (kind == Kind::INT4) {
    pack_int4(*this, values);
  } else {
    pack_floats(*this, values);
  }
}

double Matrix::bytes() const {
  const double each = kind == Kind::FLOAT32 ? 4 : kind == Kind::BFLOAT16 ? 2 : kind == Kind::INT4 ? 0.5 : 1;
  return each * panels * PANEL * padded_inputs + (kind == Kind::INT4 ? 1.0 * panels * PANEL * padded_inputs / GROUP : 0);
}

}  // namespace early_exit

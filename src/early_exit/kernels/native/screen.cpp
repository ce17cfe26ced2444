#include "screen.h"

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "decoder.h"

namespace early_exit {
namespace {

// Logits within so much of the largest are computed again, or within half, a quarter … of it where these are more than
// MOST_CANDIDATES.
constexpr float MARGIN = 5, SMALLEST_MARGIN = 0.3f;
constexpr size_t MOST_CANDIDATES = 64;
constexpr double LARGEST_ERROR = 20;  // of a logit, beyond which bounds are not worth computing
constexpr double FLOAT32 = 1e-6;      // relative error that sums of exponentials are granted
constexpr double ROUNDING = 6e-8;     // of one operation in float32
constexpr int BLOCK = 16 * WIDTH;     // tokens whose sums stay within that error

// One item's question.
class Question {
 public:
  // logits: [tokens], coarse; overwritten.
  Question(const Screen& screen, const float* input, float rounding, float* logits)
      : screen_(screen), tokens_(screen.exact->outputs), input_(input), logits_(logits) {
    const int inputs = screen.exact->inputs;
    norm_ = std::sqrt((double)dot(input, input, inputs)) * (1 + inputs * ROUNDING);
    // What a product of so many inputs may be off by in float32, twice: the coarse one, and the whole head's.
    const double product = 2 * (inputs + 16) * ROUNDING * norm_;
    everywhere_ = (screen.largest_row + screen.largest_row_error) * (rounding + product) + 1e-12;  // never 0
    largest_error_ = screen.largest_row_error * norm_ + everywhere_;
  }

  // limit: null where only the token is asked for. False where that stays open.
  bool settle(const float* limit, Screened* found) {
    // For its token an item needs only those that may be the largest, for softmax response the likely ones too.
    const double error = largest_error_, enough = 2.01 * error;
    if (!find_candidates(limit == nullptr && enough < MARGIN ? (float)enough : MARGIN)) return false;
    read_candidates();
    found->token = candidates_[best_];
    found->candidates = (int64_t)candidates_.size();
    if (limit == nullptr && exact_[best_] > cutoff_ + error) return true;
    for (const int candidate : candidates_) logits_[candidate] = -INFINITY;
    for (const bool sharp : {false, true}) {
      bound_others(sharp);
      if (!(exact_[best_] > others_)) continue;  // nor NaN
      if (limit == nullptr || between(*limit, sharp, found)) return true;
    }
    return false;
  }

 private:
  const Screen& screen_;
  int tokens_;
  const float* input_;
  float* logits_;
  double norm_, everywhere_;     // ‖x‖; the part of e that is the same for all tokens
  float cutoff_ = 0;             // above which candidates are
  std::vector<int> candidates_;  // rising
  std::vector<float> exact_;     // their logits
  size_t best_ = 0;
  double others_, largest_error_;  // what no other logit exceeds in truth; the largest of their e

  // Logits from a token on, −∞ beyond the last.
  Floats logits_from(int token) const {
    if (token + WIDTH <= tokens_) return load(logits_ + token);
    Floats values = all(-INFINITY);
    for (int i = token; i < tokens_; i++) values[i - token] = logits_[i];
    return values;
  }

  // The largest logit; NaN where one is.
  float highest() const {
    Floats most = all(-INFINITY), nan = {};
    for (int token = 0; token < tokens_; token += WIDTH) {
      const Floats logits = logits_from(token);
      nan += choose(logits == logits, all(0), logits);
      most = larger(logits, most);
    }
    return largest(most) + sum(nan);
  }

  // False where too many are too close, and where a logit is not a number.
  bool find_candidates(float margin) {
    const float most = highest();
    if (most != most) return false;
    for (; true; margin /= 2) {
      cutoff_ = most - margin;
      candidates_.clear();
      add_above(cutoff_);
      if (candidates_.size() <= MOST_CANDIDATES) return !candidates_.empty();
      if (margin < 2 * SMALLEST_MARGIN) return false;
    }
  }

  void add_above(float limit) {
    for (int first = 0; first < tokens_; first += WIDTH) {
      const Ints above = logits_from(first) > all(limit);
      int32_t any = 0;
      for (int lane = 0; lane < WIDTH; lane++) any |= above[lane];
      if (any == 0) continue;
      for (int lane = 0; lane < WIDTH; lane++) {
        if (above[lane] != 0) candidates_.push_back(first + lane);
      }
      if (candidates_.size() > MOST_CANDIDATES) return;
    }
  }

  // As the whole head computes them, a panel at a time.
  void read_candidates() {
    const Matrix& head = *screen_.exact;
    float results[TILE][PANEL];
    int known = -1;
    exact_.clear();
    for (const int candidate : candidates_) {
      if (const int panel = candidate / PANEL; panel != known) {
        const float* weights = (const float*)head.weights.get() + (size_t)panel * head.inputs * PANEL;
        multiply_panel(weights, head.inputs, input_, 1, results);
        known = panel;
      }
      exact_.push_back(results[0][candidate % PANEL]);
    }
    best_ = std::max_element(exact_.begin(), exact_.end()) - exact_.begin();
  }

  // sharp: with the error of each token instead of the largest.
  void bound_others(bool sharp) {
    others_ = highest() + largest_error_;
    if (!sharp) return;
    Floats most = all(-INFINITY), errors = {};
    for (int token = 0; token < tokens_; token += WIDTH) {
      const Floats logits = logits_from(token), own = load_some(screen_.row_errors + token, tokens_ - token);
      errors = larger(choose(logits > all(-INFINITY), own, all(0)), errors);
      most = larger(multiply_add(own, all((float)norm_), logits), most);
    }
    largest_error_ = largest(errors) * norm_ + everywhere_;
    others_ = largest(most) + everywhere_;
  }

  // Bounds of softmax response that are both above the limit, or both not. False where that stays open.
  bool between(float limit, bool sharp, Screened* found) const {
    if (largest_error_ > LARGEST_ERROR) return false;
    const double first = exact_[best_];
    double second = -INFINITY, known = 1;  // the candidates' share, in units of the first's
    for (size_t i = 0; i < exact_.size(); i++) {
      if (i == best_) continue;
      second = std::max(second, (double)exact_[i]);
      known += std::exp(exact_[i] - first);
    }
    const double gap = 1 - std::exp(std::max(second, others_ - 2 * largest_error_) - first);
    found->low = 0;
    found->high = (float)std::min(1.0, gap / known + 10 * FLOAT32);
    if (found->high <= limit) return true;  // whatever the others amount to
    const Mass others = mass(first, sharp);
    const double least = known + std::max(0.0, others.total - others.fewer), most = known + others.total + others.more;
    found->high = (float)std::min(1.0, gap / least + 10 * FLOAT32);
    const double low = (1 - std::exp(std::max(second, others_) - first)) / most - 10 * FLOAT32;
    found->low = (float)std::max(0.0, low);
    return found->low > limit || found->high <= limit;
  }

  // Σ exp(logit − first) of the others, and how much less and more that may be in truth.
  struct Mass {
    double total = 0, fewer, more;
  };

  Mass mass(double first, bool sharp) const {
    Mass found;
    double squares = 0, weighted = 0;
    for (int begin = 0; begin < tokens_; begin += BLOCK) {
      const int end = std::min(tokens_, begin + BLOCK);
      Floats total = {}, square = {}, error = {};
      for (int i = begin; i < end; i += WIDTH) {
        const Floats share = exponential(logits_from(i) - (float)first);
        total += share;
        square += share * share;
        if (sharp) error += share * load_some(screen_.row_errors + i, end - i);
      }
      found.total += sum(total);
      squares += sum(square);
      weighted += sum(error);
    }
    const double by_rows = sharp ? weighted * norm_ + found.total * everywhere_ : largest_error_ * found.total;
    const double spread = std::sqrt(squares) * screen_.error_norm * norm_ + found.total * everywhere_;
    found.fewer = std::min(by_rows, spread);
    found.more = found.fewer + by_rows * (std::expm1(largest_error_) - largest_error_) / largest_error_;
    return found;
  }
};

}  // namespace

std::vector<Screened> screened(Team& team, const Screen& screen, float epsilon, const float* inputs, int items,
                               const float* limits) {
  const size_t width = screen.exact->inputs, tokens = screen.exact->outputs;
  Scratch& room = scratch();
  std::vector<float>& normed = room.states;
  normed.assign(inputs, inputs + items * width);
  for (int item = 0; epsilon >= 0 && item < items; item++) {
    float* own = normed.data() + item * width;
    const float factor = norm_factor(own, (int)width, epsilon);
    for (size_t i = 0; i < width; i++) own[i] *= factor;
  }
  prepare(team, room.inputs, *screen.coarse, normed.data(), items);
  room.scores.resize(items * tokens);
  float* logits = room.scores.data();
  const Product product{screen.coarse, {logits, tokens}};
  multiply_all(team, room.inputs, &product, 1);
  std::vector<Screened> found(items);
  std::vector<uint8_t> open(items);
  const Prepared& rounded = room.inputs;
  team.each(items, 5e-3 * items * tokens, [&](int item) {
    const float* own = normed.data() + item * width;
    const float rounding = rounded.rounding_error(*screen.coarse, item, own);
    Question question(screen, own, rounding, logits + item * tokens);
    open[item] = !question.settle(limits == nullptr ? nullptr : limits + item, &found[item]);
  });
  std::vector<int> left;
  std::vector<float> states;
  for (int item = 0; item < items; item++) {
    if (!open[item]) continue;
    left.push_back(item);
    states.insert(states.end(), normed.data() + item * width, normed.data() + (item + 1) * width);
  }
  if (left.empty()) return found;
  prepare(team, room.inputs, *screen.exact, states.data(), (int)left.size());
  const std::vector<Top> tops =
      top(team, *screen.exact, room.inputs, limits == nullptr ? Sums::NONE : Sums::TOTAL);
  for (size_t i = 0; i < left.size(); i++) {
    const float response = limits == nullptr ? NAN : tops[i].response();
    found[left[i]] = {tops[i].token, response, response, (int64_t)tokens, true};
  }
  return found;
}

}  // namespace early_exit

// What PyTorch does in many passes over memory and these do in one, on a CPU. Compiled on first use by native.py; no
// headers of PyTorch. The slow twins are normalise.py and train/sgd.py, whose formulas these are.
//
// Local response normalisation over maps, and the original's over a square inside each map, for channels-last tensors:
// b = a (k + alpha S a^2)^-3/4 and its gradient. Maps are contiguous, so a position's maps stand in a few cache lines and every loop over them is a vector loop.
// Values are float or bfloat16 in memory and float inside.
//
// The update rule of section 5.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 {
  uint16_t bits;
};

inline float load(float v) { return v; }
inline float load(bfloat16 v) {
  uint32_t word = uint32_t(v.bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
inline void store(float &place, float v) { place = v; }
inline void store(bfloat16 &place, float v) {  // to nearest, ties to even; a NaN stays one
  uint32_t word;
  std::memcpy(&word, &v, 4);
  uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  place.bits = (word & 0x7fffffff) > 0x7f800000 ? uint16_t(0x7fc0) : uint16_t(rounded);
}

// d^-3/4 by two square roots
inline float power(float d) {
  float root = std::sqrt(d);
  return 1.0f / (root * std::sqrt(root));
}

// out[i] = sum of in[i - half .. i + half]; in has `half` zeros on both sides
inline void band(const float *in, float *out, int64_t maps, int64_t half) {
  for (int64_t i = 0; i < maps; i++) out[i] = in[i - half];
  for (int64_t j = 1 - half; j <= half; j++)
    for (int64_t i = 0; i < maps; i++) out[i] += in[i + j];
}

template <class T>
void lrn_forward(const T *x, T *y, int64_t rows, int64_t maps, int64_t columns, int64_t half, float k, float alpha) {
  const int64_t own = maps / columns;
#pragma omp parallel
  {
    std::vector<float> padded(own + 2 * half, 0.0f), sums(own);
    float *squares = padded.data() + half, *s = sums.data();
#pragma omp for schedule(static)
    for (int64_t place = 0; place < rows * columns; place++) {
      const T *a = x + place * own;
      T *b = y + place * own;
      for (int64_t i = 0; i < own; i++) squares[i] = load(a[i]) * load(a[i]);
      band(squares, s, own, half);
      for (int64_t i = 0; i < own; i++) store(b[i], load(a[i]) * power(k + alpha * s[i]));
    }
  }
}

template <class T>
void lrn_backward(const T *x, const T *dy, T *dx, int64_t rows, int64_t maps, int64_t columns, int64_t half, float k,
                  float alpha) {
  const int64_t own = maps / columns;
  const float twice = 2 * alpha * 0.75f;
#pragma omp parallel
  {
    std::vector<float> padded(own + 2 * half, 0.0f), through(own + 2 * half, 0.0f), sums(own), direct(own);
    float *squares = padded.data() + half, *t = through.data() + half, *s = sums.data(), *p = direct.data();
#pragma omp for schedule(static)
    for (int64_t place = 0; place < rows * columns; place++) {
      const T *a = x + place * own, *g = dy + place * own;
      T *out = dx + place * own;
      for (int64_t i = 0; i < own; i++) squares[i] = load(a[i]) * load(a[i]);
      band(squares, s, own, half);
      for (int64_t i = 0; i < own; i++) {
        float d = k + alpha * s[i];
        p[i] = load(g[i]) * power(d);
        t[i] = p[i] * load(a[i]) / d;
      }
      band(t, s, own, half);
      for (int64_t i = 0; i < own; i++) store(out[i], p[i] - twice * load(a[i]) * s[i]);
    }
  }
}

// Sums over the rows y - half .. y + half of one image's in: (height, width, maps), squared if asked, into
// columns: (width + 2 half, maps) whose first and last `half` columns stay zero.
template <bool squared, class T>
void sum_rows(const T *in, float *columns, int64_t y, int64_t height, int64_t width, int64_t maps, int64_t half) {
  float *inside = columns + half * maps;
  std::fill(inside, inside + width * maps, 0.0f);
  for (int64_t row = std::max<int64_t>(0, y - half); row <= std::min(height - 1, y + half); row++) {
    const T *line = in + row * width * maps;
    for (int64_t i = 0; i < width * maps; i++) {
      float v = load(line[i]);
      inside[i] += squared ? v * v : v;
    }
  }
}

// out: (width, maps), sums of 2 half + 1 neighbouring columns
inline void sum_columns(const float *columns, float *out, int64_t width, int64_t maps, int64_t half) {
  std::copy(columns, columns + width * maps, out);
  for (int64_t j = 1; j <= 2 * half; j++)
    for (int64_t i = 0; i < width * maps; i++) out[i] += columns[j * maps + i];
}

template <class T>
void spatial_forward(const T *x, T *y, int64_t images, int64_t height, int64_t width, int64_t maps, int64_t half,
                     float k, float alpha) {
#pragma omp parallel
  {
    std::vector<float> columns((width + 2 * half) * maps, 0.0f), sums(width * maps);
#pragma omp for schedule(static) collapse(2)
    for (int64_t n = 0; n < images; n++)
      for (int64_t row = 0; row < height; row++) {
        const T *image = x + n * height * width * maps;
        sum_rows<true>(image, columns.data(), row, height, width, maps, half);
        sum_columns(columns.data(), sums.data(), width, maps, half);
        const T *a = image + row * width * maps;
        T *b = y + (n * height + row) * width * maps;
        for (int64_t i = 0; i < width * maps; i++) store(b[i], load(a[i]) * power(k + alpha * sums[i]));
      }
  }
}

template <class T>
void spatial_backward(const T *x, const T *dy, T *dx, int64_t images, int64_t height, int64_t width, int64_t maps,
                      int64_t half, float k, float alpha) {
  const int64_t line = width * maps;
  const float twice = 2 * alpha * 0.75f;
#pragma omp parallel
  {
    std::vector<float> columns(line + 2 * half * maps, 0.0f), sums(line), direct(height * line), through(height * line);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < images; n++) {
      const T *image = x + n * height * line, *g = dy + n * height * line;
      for (int64_t row = 0; row < height; row++) {
        sum_rows<true>(image, columns.data(), row, height, width, maps, half);
        sum_columns(columns.data(), sums.data(), width, maps, half);
        float *p = direct.data() + row * line, *t = through.data() + row * line;
        for (int64_t i = 0; i < line; i++) {
          float d = k + alpha * sums[i];
          p[i] = load(g[row * line + i]) * power(d);
          t[i] = p[i] * load(image[row * line + i]) / d;
        }
      }
      for (int64_t row = 0; row < height; row++) {
        sum_rows<false>(through.data(), columns.data(), row, height, width, maps, half);
        sum_columns(columns.data(), sums.data(), width, maps, half);
        const T *a = image + row * line;
        const float *p = direct.data() + row * line;
        T *out = dx + (n * height + row) * line;
        for (int64_t i = 0; i < line; i++) store(out[i], p[i] - twice * load(a[i]) * sums[i]);
      }
    }
  }
}

}  // namespace

#define EXPORT(T, suffix)                                                                                             \
  extern "C" void lrn_forward_##suffix(const T *x, T *y, int64_t rows, int64_t maps, int64_t columns, int64_t half,   \
                                       float k, float alpha) {                                                        \
    lrn_forward(x, y, rows, maps, columns, half, k, alpha);                                                           \
  }                                                                                                                   \
  extern "C" void lrn_backward_##suffix(const T *x, const T *dy, T *dx, int64_t rows, int64_t maps, int64_t columns,  \
                                        int64_t half, float k, float alpha) {                                         \
    lrn_backward(x, dy, dx, rows, maps, columns, half, k, alpha);                                                     \
  }                                                                                                                   \
  extern "C" void spatial_forward_##suffix(const T *x, T *y, int64_t images, int64_t height, int64_t width,           \
                                           int64_t maps, int64_t half, float k, float alpha) {                        \
    spatial_forward(x, y, images, height, width, maps, half, k, alpha);                                               \
  }                                                                                                                   \
  extern "C" void spatial_backward_##suffix(const T *x, const T *dy, T *dx, int64_t images, int64_t height,           \
                                            int64_t width, int64_t maps, int64_t half, float k, float alpha) {        \
    spatial_backward(x, dy, dx, images, height, width, maps, half, k, alpha);                                         \
  }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)

// v <- momentum v - rate g - decay_rate w; w <- w + v
extern "C" void update(float *w, float *v, const float *g, int64_t count, float momentum, float rate,
                       float decay_rate) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; i++) {
    v[i] = momentum * v[i] - rate * g[i] - decay_rate * w[i];
    w[i] += v[i];
  }
}

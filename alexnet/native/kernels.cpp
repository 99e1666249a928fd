// What PyTorch does in many passes over memory and these do in one, on a CPU. Compiled on first use by native.py; no
// headers of PyTorch. The slow twins are in normalise.py, train/sgd.py, data/augment.py and data/prepare.py, whose
// formulas these are.
//
// What stands between two convolutions, with local response normalisation over maps, and the original's normalisation
// over a square inside each map, for channels-last tensors: b = a (k + alpha S a^2)^-3/4 and its gradient. Maps are
// contiguous, so a position's maps stand in a few cache lines and every loop over them is a vector loop. Values are
// float or bfloat16 in memory and float inside.
//
// The update rule of section 5. Patches cut from pictures (sections 2 and 4.1), and products of their colours.

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

// What stands between two convolutions, in this order, each part optional: unit (ReLU), normalisation over maps,
// maximum over windows, unit. Nothing between the parts is written to memory.
struct Pass {
  int64_t images, height, width, maps;  // of x
  int64_t relu, columns, half;          // half: maps on either side; below 0 there is no normalisation
  int64_t size, stride, rows, cols;     // of the windows, and of y; size 0: no maximum, y is as large as x
  int64_t relu_after;
  float k, alpha;
};

constexpr int32_t NOWHERE = 255;  // the unit after the maximum let nothing through

// One thread's room for the maps at one position.
class Position {
 public:
  explicit Position(const Pass &p)
      : p(p), own(p.maps / p.columns), pad(std::max<int64_t>(0, p.half)), padded(own + 2 * pad, 0.0f),
        through(own + 2 * pad, 0.0f), sums(own), direct(own), values(p.maps) {}

  template <class T>
  void forward(const T *x, float *y) {
    enter(x);
    if (p.half < 0) {
      std::copy(values.begin(), values.end(), y);
      return;
    }
    for (int64_t first = 0; first < p.maps; first += own) {
      const float *a = values.data() + first, *s = sums_of_squares(a);
      float *b = y + first;
      for (int64_t i = 0; i < own; i++) b[i] = a[i] * power(p.k + p.alpha * s[i]);
    }
  }

  // g: the gradient of what forward returned
  template <class T>
  void backward(const T *x, const float *g, T *dx) {
    enter(x);
    const float twice = 2 * p.alpha * 0.75f;
    float *t = through.data() + pad, *d = direct.data();
    for (int64_t first = 0; first < p.maps; first += own) {
      const float *a = values.data() + first, *in = g + first;
      T *out = dx + first;
      if (p.half < 0) {
        for (int64_t i = 0; i < own; i++) store(out[i], p.relu && !(a[i] > 0) ? 0.0f : in[i]);
        continue;
      }
      const float *s = sums_of_squares(a);
      for (int64_t i = 0; i < own; i++) {
        float base = p.k + p.alpha * s[i];
        d[i] = in[i] * power(base);
        t[i] = d[i] * a[i] / base;
      }
      band(t, sums.data(), own, p.half);
      if (p.relu)
        for (int64_t i = 0; i < own; i++) store(out[i], a[i] > 0 ? d[i] - twice * a[i] * s[i] : 0.0f);
      else
        for (int64_t i = 0; i < own; i++) store(out[i], d[i] - twice * a[i] * s[i]);
    }
  }

 private:
  const Pass &p;
  const int64_t own, pad;
  std::vector<float> padded, through, sums, direct, values;

  template <class T>
  void enter(const T *x) {
    float *a = values.data();
    if (p.relu)
      for (int64_t i = 0; i < p.maps; i++) a[i] = load(x[i]) < 0 ? 0.0f : load(x[i]);  // a NaN stays one
    else
      for (int64_t i = 0; i < p.maps; i++) a[i] = load(x[i]);
  }

  const float *sums_of_squares(const float *a) {
    float *squares = padded.data() + pad;
    for (int64_t i = 0; i < own; i++) squares[i] = a[i] * a[i];
    band(squares, sums.data(), own, p.half);
    return sums.data();
  }
};

// y: maxima over windows of in: rows first_row .. of an image; which: the place of each in its window.
// best and at: room for the maps at one position; as wide as each other, so that the loop over them is a vector loop.
template <class T>
void maximum(const Pass &p, const float *in, int64_t first_row, int64_t row, T *y, uint8_t *which,
             float *__restrict best, int32_t *__restrict at) {
  for (int64_t col = 0; col < p.cols; col++, y += p.maps, which += p.maps) {
    const int64_t bottom = std::min(p.size, p.height - row * p.stride), right = std::min(p.size, p.width - col * p.stride);
    for (int64_t i = 0; i < bottom; i++)
      for (int64_t j = 0; j < right; j++) {
        const float *a = in + ((row * p.stride + i - first_row) * p.width + col * p.stride + j) * p.maps;
        const int32_t place = int32_t(i * p.size + j);
        if (place == 0) {
          std::copy(a, a + p.maps, best);
          std::fill(at, at + p.maps, 0);
          continue;
        }
#pragma omp simd
        for (int64_t c = 0; c < p.maps; c++) {
          const bool more = a[c] > best[c] || a[c] != a[c];  // the first of equals; a NaN wins and stays
          best[c] = more ? a[c] : best[c];
          at[c] = more ? place : at[c];
        }
      }
    if (p.relu_after)
#pragma omp simd
      for (int64_t c = 0; c < p.maps; c++) {
        at[c] = best[c] <= 0 ? NOWHERE : at[c];
        best[c] = best[c] < 0 ? 0.0f : best[c];
      }
    for (int64_t c = 0; c < p.maps; c++) store(y[c], best[c]);
    for (int64_t c = 0; c < p.maps; c++) which[c] = uint8_t(at[c]);
  }
}

// g: (last - first, width, maps), the gradient of the windows' inputs in rows first .. last of an image
template <class T>
void maximum_backward(const Pass &p, const T *dy, const uint8_t *which, int64_t first, int64_t last, float *g) {
  std::fill(g, g + (last - first) * p.width * p.maps, 0.0f);
  const int64_t above = first - p.size + 1, from = above <= 0 ? 0 : (above + p.stride - 1) / p.stride;
  for (int64_t row = from; row < p.rows && row * p.stride < last; row++)
    for (int64_t col = 0; col < p.cols; col++) {
      const T *d = dy + (row * p.cols + col) * p.maps;
      const uint8_t *at = which + (row * p.cols + col) * p.maps;
      for (int64_t i = 0; i < p.size; i++) {
        const int64_t y = row * p.stride + i;
        if (y < first || y >= last) continue;
        for (int64_t j = 0; j < p.size && col * p.stride + j < p.width; j++) {
          float *out = g + ((y - first) * p.width + col * p.stride + j) * p.maps;
          const uint8_t place = uint8_t(i * p.size + j);
          for (int64_t c = 0; c < p.maps; c++) out[c] += at[c] == place ? load(d[c]) : 0.0f;
        }
      }
    }
}

constexpr int64_t BLOCK = 8;  // rows of an image that a thread works on at once; they stay in its cache

template <class T>
void pass_forward(const T *x, T *y, uint8_t *which, const Pass &p) {
  const int64_t line = p.width * p.maps, blocks = (p.rows + BLOCK - 1) / BLOCK;
#pragma omp parallel
  {
    Position position(p);
    std::vector<float> between(p.size ? ((BLOCK - 1) * p.stride + p.size) * line : line), best(p.maps);
    std::vector<int32_t> at(p.maps);
#pragma omp for schedule(static) collapse(2)
    for (int64_t n = 0; n < p.images; n++)
      for (int64_t block = 0; block < blocks; block++) {
        const T *image = x + n * p.height * line;
        const int64_t first = block * BLOCK, last = std::min(p.rows, first + BLOCK);
        if (!p.size) {
          for (int64_t row = first; row < last; row++) {
            for (int64_t col = 0; col < p.width; col++)
              position.forward(image + row * line + col * p.maps, between.data() + col * p.maps);
            T *out = y + (n * p.height + row) * line;
            for (int64_t i = 0; i < line; i++) store(out[i], between[i]);
          }
          continue;
        }
        const int64_t top = first * p.stride, bottom = std::min(p.height, (last - 1) * p.stride + p.size);
        for (int64_t place = 0; place < (bottom - top) * p.width; place++)
          position.forward(image + top * line + place * p.maps, between.data() + place * p.maps);
        for (int64_t row = first; row < last; row++) {
          const int64_t out = (n * p.rows + row) * p.cols * p.maps;
          maximum(p, between.data(), top, row, y + out, which + out, best.data(), at.data());
        }
      }
  }
}

template <class T>
void pass_backward(const T *x, const T *dy, const uint8_t *which, T *dx, const Pass &p) {
  const int64_t line = p.width * p.maps, blocks = (p.height + BLOCK - 1) / BLOCK, out = p.rows * p.cols * p.maps;
#pragma omp parallel
  {
    Position position(p);
    std::vector<float> between(BLOCK * line);
#pragma omp for schedule(static) collapse(2)
    for (int64_t n = 0; n < p.images; n++)
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t first = block * BLOCK, last = std::min(p.height, first + BLOCK);
        const int64_t start = (n * p.height + first) * line;
        float *g = between.data();
        if (p.size)
          maximum_backward(p, dy + n * out, which + n * out, first, last, g);
        else
          for (int64_t i = 0; i < (last - first) * line; i++) g[i] = load(dy[start + i]);
        for (int64_t place = 0; place < (last - first) * p.width; place++)
          position.backward(x + start + place * p.maps, g + place * p.maps, dx + start + place * p.maps);
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

// As in native.py.
struct Cut {
  int64_t images, stored_px, input_px, mean_moves;
  float scale;
};

// to[i] = from[pixels - 1 - i], pixels of three bytes, five in each vector
inline void reflect(const uint8_t *from, uint8_t *to, int64_t pixels) {
  typedef uint8_t Vector __attribute__((vector_size(16)));
  int64_t i = 0;
  for (; i + 6 <= pixels; i += 5) {
    Vector v;
    std::memcpy(&v, from + 3 * (pixels - i) - 16, 16);
    v = __builtin_shufflevector(v, v, 13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0);
    std::memcpy(to + 3 * i, &v, 16);  // the sixteenth byte is written again by what follows
  }
  for (; i < pixels; i++) std::memcpy(to + 3 * i, from + 3 * (pixels - 1 - i), 3);
}

// out = ((picture, reflected or not) - mean + shift) scale / deviation. The mean is that of the whole stored picture,
// mirrored behind it, where it moves with the patch, else the patch's own.
template <typename T>
void cut(const uint8_t *images, const float *mean, const float *mirrored, const int64_t *top, const int64_t *left,
         const uint8_t *flip, const float *shift, const float *deviation, T *out, const Cut &c) {
  const int64_t line = 3 * c.stored_px, width = 3 * c.input_px;
#pragma omp parallel
  {
    std::vector<float> colour(width), divisor(width);
    std::vector<uint8_t> reflected(width);
    for (int64_t i = 0; deviation && i < width; i++) divisor[i] = deviation[i % 3];
#pragma omp for schedule(static)
    for (int64_t n = 0; n < c.images; n++) {
      for (int64_t i = 0; i < width; i++) colour[i] = shift[3 * n + i % 3];
      for (int64_t row = 0; row < c.input_px; row++) {
        const uint8_t *from = images + (n * c.stored_px + top[n] + row) * line + 3 * left[n];
        const float *m = mean + row * width;
        if (c.mean_moves) {
          const int64_t column = flip[n] ? c.stored_px - left[n] - c.input_px : left[n];
          m = (flip[n] ? mirrored : mean) + (top[n] + row) * line + 3 * column;
        }
        if (flip[n]) {
          reflect(from, reflected.data(), c.input_px);
          from = reflected.data();
        }
        T *to = out + (n * c.input_px + row) * width;
        const float *s = colour.data(), *d = divisor.data();
        if (deviation)
          for (int64_t i = 0; i < width; i++) store(to[i], (float(from[i]) - m[i] + s[i]) * c.scale / d[i]);
        else
          for (int64_t i = 0; i < width; i++) store(to[i], (float(from[i]) - m[i] + s[i]) * c.scale);
      }
    }
  }
}

}  // namespace

#define EXPORT(T, suffix)                                                                                             \
  extern "C" void pass_forward_##suffix(const T *x, T *y, uint8_t *which, const Pass *p) {                            \
    pass_forward(x, y, which, *p);                                                                                    \
  }                                                                                                                   \
  extern "C" void pass_backward_##suffix(const T *x, const T *dy, const uint8_t *which, T *dx, const Pass *p) {       \
    pass_backward(x, dy, which, dx, *p);                                                                              \
  }                                                                                                                   \
  extern "C" void spatial_forward_##suffix(const T *x, T *y, int64_t images, int64_t height, int64_t width,           \
                                           int64_t maps, int64_t half, float k, float alpha) {                        \
    spatial_forward(x, y, images, height, width, maps, half, k, alpha);                                               \
  }                                                                                                                   \
  extern "C" void spatial_backward_##suffix(const T *x, const T *dy, T *dx, int64_t images, int64_t height,           \
                                            int64_t width, int64_t maps, int64_t half, float k, float alpha) {        \
    spatial_backward(x, dy, dx, images, height, width, maps, half, k, alpha);                                         \
  }                                                                                                                   \
  extern "C" void cut_##suffix(const uint8_t *images, const float *mean, const float *mirrored, const int64_t *top,   \
                               const int64_t *left, const uint8_t *flip, const float *shift, const float *deviation,  \
                               T *out, const Cut *c) {                                                                \
    cut(images, mean, mirrored, top, left, flip, shift, deviation, out, *c);                                          \
  }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)

// Sums over pixels of the products of R, G and B, added to (3, 3). 32 bits hold 66,051 products of 255 x 255.
extern "C" void products(const uint8_t *rgb, int64_t pixels, int64_t *sums) {
  constexpr int64_t PIECE = 4096;
  for (int64_t at = 0; at < pixels; at += PIECE) {
    uint32_t rr = 0, rg = 0, rb = 0, gg = 0, gb = 0, bb = 0;
    for (int64_t i = at; i < std::min(pixels, at + PIECE); i++) {
      const uint32_t r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2];
      rr += r * r, rg += r * g, rb += r * b, gg += g * g, gb += g * b, bb += b * b;
    }
    const uint32_t all[9] = {rr, rg, rb, rg, gg, gb, rb, gb, bb};
    for (int k = 0; k < 9; k++) sums[k] += all[k];
  }
}

// v <- momentum v - rate g - decay_rate w; w <- w + v
extern "C" void update(float *w, float *v, const float *g, int64_t count, float momentum, float rate,
                       float decay_rate) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; i++) {
    v[i] = momentum * v[i] - rate * g[i] - decay_rate * w[i];
    w[i] += v[i];
  }
}

// Operations that PyTorch runs in many passes over memory, and this file in one, on a CPU.
//
// `native/__init__.py` compiles the file on first use and declares its functions. It includes no
// header of PyTorch, so that it compiles in seconds and does not depend on PyTorch's version. The
// plain versions with the same formulas are in ops/plain.py, ops/dropout_mask.py, train/sgd.py,
// data/preprocess.py and data/pixel_sums.py; tests compare the two.
//
// - ReLU, response normalization and max pooling in one pass (sections 3.1, 3.3 and 3.4), and the
//   original's normalization over a square inside each map: b = a (k + alpha S)^-3/4, where S is
//   the sum of a^2 over the neighborhood, and the gradients. Tensors are channels last: the maps
//   of a pixel are contiguous, so that every loop over them is a vector loop. Values are float or
//   bfloat16 in memory and float in registers.
// - The update rule (section 5), and the masks of dropout (section 4.2).
// - Crops with the mean subtracted (sections 2 and 4.1), and sums of products of colors.

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
inline void store(float &to, float v) { to = v; }
// Rounds to nearest, ties to even, as PyTorch does. The addition would carry a NaN's mantissa over
// into its exponent, so a NaN is stored as such.
inline void store(bfloat16 &to, float v) {
  uint32_t word;
  std::memcpy(&word, &v, 4);
  uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  to.bits = (word & 0x7fffffff) > 0x7f800000 ? uint16_t(0x7fc0) : uint16_t(rounded);
}

// d^-3/4. Two square roots are vector instructions; std::pow is a call for each value.
inline float power(float d) {
  float root = std::sqrt(d);
  return 1.0f / (root * std::sqrt(root));
}

// The value of a map's neighbor at a distance of j maps, 0 where that lies in another column.
inline float neighbor(const float *in, int32_t map_in_column, int32_t j, int32_t column_maps) {
  const float value = *in;
  return uint32_t(map_in_column + j) < uint32_t(column_maps) ? value : 0.0f;
}

// out[i] = in[i - half] + ... + in[i + half], without the neighbors in another column. The maps of
// a column are numbered in `map_in_column` from 0 to column_maps - 1, pixel after pixel. `in` must
// be readable up to `half` values before and after its own. A sum of shifted copies is a vector
// loop; a running sum would be cheaper in additions, but each value would wait for the one before
// it, and rounding errors would accumulate. Where the compiler knows the size of the neighborhood,
// the sum stays in a register.
template <int32_t HALF>
inline void known_band(const float *__restrict in, const int32_t *__restrict map_in_column,
                       float *__restrict out, int64_t count, int32_t column_maps) {
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    float sum = neighbor(in + i - HALF, map_in_column[i], -HALF, column_maps);
    for (int32_t j = 1 - HALF; j <= HALF; j++)
      sum += neighbor(in + i + j, map_in_column[i], j, column_maps);
    out[i] = sum;
  }
}
inline void band(const float *in, const int32_t *map_in_column, float *out, int64_t count,
                 int32_t column_maps, int32_t half) {
  if (half == 2)  // the paper's five maps
    return known_band<2>(in, map_in_column, out, count, column_maps);
  std::fill(out, out + count, 0.0f);
  for (int32_t j = -half; j <= half; j++)
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
      out[i] += neighbor(in + i + j, map_in_column[i], j, column_maps);
}

// The operations between two convolutions, in this order, each of them optional: ReLU,
// normalization over maps, maximum over windows, ReLU. Nothing between them is written to memory.
//
// The fields must be those of `PassSettings` in native/__init__.py, in the same order.
struct Pass {
  int64_t images, height, width, maps;  // of x, the input
  int64_t relu;
  int64_t columns;       // the maps of different columns are not neighbors (section 3.2)
  int64_t half;          // neighbors on either side; -1: no normalization
  int64_t size, stride;  // of the windows; size 0: no pooling, and y is as large as x
  int64_t rows, cols;    // of y
  int64_t relu_after;
  float k, alpha;
};

// Stands for the offset of a maximum that the ReLU after it set to 0: no gradient passes.
constexpr int32_t NO_GRADIENT = 255;

// Normalizes the maps of pixels that are contiguous in memory, in chunks of about CHUNK_VALUES
// values: a loop over the 12 maps of a narrow network's column would not fill one vector, and what
// is computed in between stays in the L1 cache. It owns the buffers of one thread, so that nothing
// is allocated in a loop.
class Normalizer {
 public:
  explicit Normalizer(const Pass &p)
      : p(p),
        column_maps(int32_t(p.maps / p.columns)),
        half(int32_t(p.half)),
        chunk(std::max<int64_t>(1, CHUNK_VALUES / p.maps) * p.maps),
        pad(std::max<int64_t>(0, p.half)),
        squares(chunk + 2 * pad, 0.0f),
        indirect(chunk + 2 * pad, 0.0f),
        sums(chunk),
        direct(chunk),
        values(chunk),
        map_in_column(chunk) {
    for (int64_t i = 0; i < chunk; i++) map_in_column[i] = int32_t(i % column_maps);
  }

  // x and y: (pixels, maps). The sum never crosses from one column to the other.
  template <class T>
  void forward(const T *x, float *y, int64_t pixels) {
    for (int64_t all = pixels * p.maps, first = 0; first < all; first += chunk) {
      const int64_t count = std::min(chunk, all - first);
      const float *a = load_values(x + first, count);
      float *__restrict b = y + first;
      if (half < 0) {
        std::copy(a, a + count, b);
        continue;
      }
      const float *s = sums_of_squares(a, count);
#pragma omp simd
      for (int64_t i = 0; i < count; i++) b[i] = a[i] * power(p.k + p.alpha * s[i]);
    }
  }

  // With s = k + alpha S and b = a s^-3/4:
  //   dL/da_i = g_i s_i^-3/4 - 2 alpha 3/4 a_i * (sum over neighbors j of g_j a_j s_j^-3/4 / s_j).
  // `direct` is g s^-3/4, and `indirect` the summand. g: dL/db, the gradient of `forward`'s y.
  // ReLU passes the gradient of a NaN, as in PyTorch, and so none where a <= 0, not where !(a > 0).
  template <class T>
  void backward(const T *x, const float *g, T *dx, int64_t pixels) {
    const float twice = 2 * p.alpha * 0.75f;
    float *t = indirect.data() + pad, *d = direct.data();
    for (int64_t all = pixels * p.maps, first = 0; first < all; first += chunk) {
      const int64_t count = std::min(chunk, all - first);
      const float *a = load_values(x + first, count), *in = g + first;
      T *out = dx + first;
      if (half < 0) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) store(out[i], p.relu && a[i] <= 0 ? 0.0f : in[i]);
        continue;
      }
      const float *s = sums_of_squares(a, count);
#pragma omp simd
      for (int64_t i = 0; i < count; i++) {
        float base = p.k + p.alpha * s[i];
        d[i] = in[i] * power(base);
        t[i] = d[i] * a[i] / base;
      }
      band(t, map_in_column.data(), sums.data(), count, column_maps, half);
      if (p.relu)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
          store(out[i], a[i] <= 0 ? 0.0f : d[i] - twice * a[i] * s[i]);
      else
#pragma omp simd
        for (int64_t i = 0; i < count; i++) store(out[i], d[i] - twice * a[i] * s[i]);
    }
  }

 private:
  static constexpr int64_t CHUNK_VALUES = 512;
  const Pass &p;
  const int32_t column_maps, half;
  const int64_t chunk, pad;
  // The first two have `pad` values on both sides, which are read but belong to no column.
  std::vector<float> squares, indirect, sums, direct, values;
  std::vector<int32_t> map_in_column;

  template <class T>
  const float *load_values(const T *x, int64_t count) {
    float *a = values.data();
    if (p.relu)
#pragma omp simd
      for (int64_t i = 0; i < count; i++)
        a[i] = load(x[i]) < 0 ? 0.0f : load(x[i]);  // `> 0 ? x : 0` would turn a NaN into 0
    else
#pragma omp simd
      for (int64_t i = 0; i < count; i++) a[i] = load(x[i]);
    return a;
  }

  const float *sums_of_squares(const float *a, int64_t count) {
    float *square = squares.data() + pad;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) square[i] = a[i] * a[i];
    band(square, map_in_column.data(), sums.data(), count, column_maps, half);
    return sums.data();
  }
};

// Computes one row of y, the maxima over windows. `in` holds the rows of an image from `first_row`
// on; `which` receives the offset of each maximum in its window, for the gradient. best and best_at
// are buffers for the maps of one pixel. An offset is as wide as a value there, and not a byte, so
// that the loop over the maps is a vector loop.
template <class T>
void maximum(const Pass &p, const float *in, int64_t first_row, int64_t row, T *y, uint8_t *which,
             float *__restrict best, int32_t *__restrict best_at) {
  for (int64_t col = 0; col < p.cols; col++, y += p.maps, which += p.maps) {
    const int64_t bottom = std::min(p.size, p.height - row * p.stride),
                  right = std::min(p.size, p.width - col * p.stride);
    for (int64_t i = 0; i < bottom; i++)
      for (int64_t j = 0; j < right; j++) {
        const float *a =
            in + ((row * p.stride + i - first_row) * p.width + col * p.stride + j) * p.maps;
        const int32_t offset = int32_t(i * p.size + j);
        if (offset == 0) {  // the window's first pixel initializes the buffers
          std::copy(a, a + p.maps, best);
          std::fill(best_at, best_at + p.maps, 0);
          continue;
        }
#pragma omp simd
        for (int64_t c = 0; c < p.maps; c++) {
          // As in PyTorch: the first of equal values is the maximum, and a NaN replaces any value.
          const bool wins = a[c] > best[c] || a[c] != a[c];
          best[c] = wins ? a[c] : best[c];
          best_at[c] = wins ? offset : best_at[c];
        }
      }
    if (p.relu_after)
#pragma omp simd
      for (int64_t c = 0; c < p.maps; c++) {
        best_at[c] = best[c] <= 0 ? NO_GRADIENT : best_at[c];
        best[c] = best[c] < 0 ? 0.0f : best[c];
      }
    for (int64_t c = 0; c < p.maps; c++) store(y[c], best[c]);
    for (int64_t c = 0; c < p.maps; c++) which[c] = uint8_t(best_at[c]);
  }
}

// Computes g, (last - first, width, maps): the gradient of the pooling's input in rows first ..
// last - 1 of an image. A window may begin above `first`: another thread adds its other rows. No
// two threads write to the same row, so nothing has to be atomic and the order of the sums is
// fixed. gradients and best_at are buffers for a row of windows.
template <class T>
void maximum_backward(const Pass &p, const T *dy, const uint8_t *which, int64_t first, int64_t last,
                      float *__restrict g, float *__restrict gradients,
                      int32_t *__restrict best_at) {
  std::fill(g, g + (last - first) * p.width * p.maps, 0.0f);
  const int64_t above = first - p.size + 1, line = p.cols * p.maps,
                from = above <= 0 ? 0 : (above + p.stride - 1) / p.stride;
  for (int64_t row = from; row < p.rows && row * p.stride < last; row++) {
    // As wide as each other, so that the loop over the maps is a vector loop; see `maximum`.
    for (int64_t i = 0; i < line; i++) gradients[i] = load(dy[row * line + i]);
    for (int64_t i = 0; i < line; i++) best_at[i] = which[row * line + i];
    for (int64_t i = 0; i < p.size; i++) {
      const int64_t y = row * p.stride + i;
      if (y < first || y >= last) continue;
      for (int64_t col = 0; col < p.cols; col++)
        for (int64_t j = 0; j < p.size && col * p.stride + j < p.width; j++) {
          float *out = g + ((y - first) * p.width + col * p.stride + j) * p.maps;
          const float *d = gradients + col * p.maps;
          const int32_t *at = best_at + col * p.maps, offset = int32_t(i * p.size + j);
#pragma omp simd
          for (int64_t c = 0; c < p.maps; c++) out[c] += at[c] == offset ? d[c] : 0.0f;
        }
    }
  }
}

// Rows that a thread computes together, so that what is between the operations stays in its cache.
constexpr int64_t BLOCK = 8;

template <class T>
void pass_forward(const T *x, T *y, uint8_t *which, const Pass &p) {
  const int64_t line = p.width * p.maps, blocks = (p.rows + BLOCK - 1) / BLOCK;
#pragma omp parallel
  {
    Normalizer normalizer(p);
    std::vector<float> buffer(p.size ? ((BLOCK - 1) * p.stride + p.size) * line : line),
        best(p.maps);
    std::vector<int32_t> best_at(p.maps);
#pragma omp for schedule(static) collapse(2)
    for (int64_t n = 0; n < p.images; n++)
      for (int64_t block = 0; block < blocks; block++) {
        const T *image = x + n * p.height * line;
        const int64_t first = block * BLOCK, last = std::min(p.rows, first + BLOCK);
        if (!p.size) {
          for (int64_t row = first; row < last; row++) {
            normalizer.forward(image + row * line, buffer.data(), p.width);
            T *out = y + (n * p.height + row) * line;
            for (int64_t i = 0; i < line; i++) store(out[i], buffer[i]);
          }
          continue;
        }
        // The input rows of these windows. Rows that the windows of two blocks share are computed
        // twice, so that threads share nothing.
        const int64_t top = first * p.stride,
                      bottom = std::min(p.height, (last - 1) * p.stride + p.size);
        normalizer.forward(image + top * line, buffer.data(), (bottom - top) * p.width);
        for (int64_t row = first; row < last; row++) {
          const int64_t out = (n * p.rows + row) * p.cols * p.maps;
          maximum(p, buffer.data(), top, row, y + out, which + out, best.data(), best_at.data());
        }
      }
  }
}

template <class T>
void pass_backward(const T *x, const T *dy, const uint8_t *which, T *dx, const Pass &p) {
  const int64_t line = p.width * p.maps, blocks = (p.height + BLOCK - 1) / BLOCK,
                out = p.rows * p.cols * p.maps;
#pragma omp parallel
  {
    Normalizer normalizer(p);
    std::vector<float> buffer(BLOCK * line), gradients(p.cols * p.maps);
    std::vector<int32_t> best_at(p.cols * p.maps);
#pragma omp for schedule(static) collapse(2)
    for (int64_t n = 0; n < p.images; n++)
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t first = block * BLOCK, last = std::min(p.height, first + BLOCK);
        const int64_t start = (n * p.height + first) * line;
        float *g = buffer.data();
        if (p.size)
          maximum_backward(p, dy + n * out, which + n * out, first, last, g, gradients.data(),
                           best_at.data());
        else
          for (int64_t i = 0; i < (last - first) * line; i++) g[i] = load(dy[start + i]);
        normalizer.backward(x + start, g, dx + start, (last - first) * p.width);
      }
  }
}

// The square of the spatial normalization is summed over rows, then over columns of pixels: 2 n
// additions for each value instead of n^2.
//
// column_sums[x] = in[y - half][x] + ... + in[y + half][x], squared if asked. in: (height, width,
// maps); column_sums: (width + 2 half, maps), whose first and last `half` entries stay zero.
template <bool squared, class T>
void sum_rows(const T *in, float *column_sums, int64_t y, int64_t height, int64_t width,
              int64_t maps, int64_t half) {
  float *inside = column_sums + half * maps;
  std::fill(inside, inside + width * maps, 0.0f);
  for (int64_t row = std::max<int64_t>(0, y - half); row <= std::min(height - 1, y + half); row++) {
    const T *line = in + row * width * maps;
    for (int64_t i = 0; i < width * maps; i++) {
      float v = load(line[i]);
      inside[i] += squared ? v * v : v;
    }
  }
}

// out: (width, maps), the sums of 2 half + 1 adjacent column sums
inline void sum_columns(const float *column_sums, float *out, int64_t width, int64_t maps,
                        int64_t half) {
  std::copy(column_sums, column_sums + width * maps, out);
  for (int64_t j = 1; j <= 2 * half; j++)
    for (int64_t i = 0; i < width * maps; i++) out[i] += column_sums[j * maps + i];
}

template <class T>
void spatial_forward(const T *x, T *y, int64_t images, int64_t height, int64_t width, int64_t maps,
                     int64_t half, float k, float alpha) {
#pragma omp parallel
  {
    std::vector<float> column_sums((width + 2 * half) * maps, 0.0f), sums(width * maps);
#pragma omp for schedule(static) collapse(2)
    for (int64_t n = 0; n < images; n++)
      for (int64_t row = 0; row < height; row++) {
        const T *image = x + n * height * width * maps;
        sum_rows<true>(image, column_sums.data(), row, height, width, maps, half);
        sum_columns(column_sums.data(), sums.data(), width, maps, half);
        const T *a = image + row * width * maps;
        T *b = y + (n * height + row) * width * maps;
        for (int64_t i = 0; i < width * maps; i++)
          store(b[i], load(a[i]) * power(k + alpha * sums[i]));
      }
  }
}

// `direct` and `indirect` are as in Normalizer::backward, for a whole image: the sums over squares
// of `indirect` need rows below the current one. So a thread takes an image, and not a row of it.
template <class T>
void spatial_backward(const T *x, const T *dy, T *dx, int64_t images, int64_t height, int64_t width,
                      int64_t maps, int64_t half, float k, float alpha) {
  const int64_t line = width * maps;
  const float twice = 2 * alpha * 0.75f;
#pragma omp parallel
  {
    std::vector<float> column_sums(line + 2 * half * maps, 0.0f), sums(line), direct(height * line),
        indirect(height * line);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < images; n++) {
      const T *image = x + n * height * line, *g = dy + n * height * line;
      for (int64_t row = 0; row < height; row++) {
        sum_rows<true>(image, column_sums.data(), row, height, width, maps, half);
        sum_columns(column_sums.data(), sums.data(), width, maps, half);
        float *p = direct.data() + row * line, *t = indirect.data() + row * line;
        for (int64_t i = 0; i < line; i++) {
          float d = k + alpha * sums[i];
          p[i] = load(g[row * line + i]) * power(d);
          t[i] = p[i] * load(image[row * line + i]) / d;
        }
      }
      for (int64_t row = 0; row < height; row++) {
        sum_rows<false>(indirect.data(), column_sums.data(), row, height, width, maps, half);
        sum_columns(column_sums.data(), sums.data(), width, maps, half);
        const T *a = image + row * line;
        const float *p = direct.data() + row * line;
        T *out = dx + (n * height + row) * line;
        for (int64_t i = 0; i < line; i++) store(out[i], p[i] - twice * load(a[i]) * sums[i]);
      }
    }
  }
}

// The fields must be those of `Crop` in native/__init__.py, in the same order. mean_moves: the mean
// image is cropped at the position of the crop (the paper); otherwise `mean` is one crop for all.
struct Crop {
  int64_t images, stored_px, input_px, mean_moves;
  float scale;
};

// to[i] = from[pixels - 1 - i], pixels of three bytes. A shuffle of a vector reflects five of them.
inline void reflect(const uint8_t *from, uint8_t *to, int64_t pixels) {
  typedef uint8_t Vector __attribute__((vector_size(16)));
  int64_t i = 0;
  // Five pixels at a time, while at least six are left: the vectors then stay inside both rows.
  for (; i + 6 <= pixels; i += 5) {
    Vector v;
    std::memcpy(&v, from + 3 * (pixels - i) - 16, 16);
#if defined(__clang__) || __GNUC__ >= 12
    v = __builtin_shufflevector(v, v, 13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0);
#else  // GCC 11, that of Ubuntu 22.04, has only its own form
    v = __builtin_shuffle(v, (Vector){13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0});
#endif
    std::memcpy(to + 3 * i, &v, 16);  // what follows overwrites the sixteenth byte
  }
  for (; i < pixels; i++) std::memcpy(to + 3 * i, from + 3 * (pixels - 1 - i), 3);
}

// to = (from - mean + shift) * scale / deviation, one row of a crop. deviation may be null.
template <typename T, typename From>
inline void normalize(const From *from, const float *mean, const float *shift,
                      const float *deviation, float scale, T *to, int64_t width) {
  if (deviation)
    for (int64_t i = 0; i < width; i++)
      store(to[i], (float(from[i]) - mean[i] + shift[i]) * scale / deviation[i]);
  else
    for (int64_t i = 0; i < width; i++)
      store(to[i], (float(from[i]) - mean[i] + shift[i]) * scale);
}

// out = (crop - mean + shift) * scale / deviation, the crop reflected where flip is set. mirrored:
// the reflected mean image. It is that of the whole stored image, as is `mean`, if mean_moves is
// set: a reflected crop then meets the mean of its own pixels. deviation: of R, G and B, or null.
template <typename T>
void crop(const uint8_t *images, const float *mean, const float *mirrored, const int64_t *top,
          const int64_t *left, const uint8_t *flip, const float *shift, const float *deviation,
          T *out, const Crop &c) {
  const int64_t line = 3 * c.stored_px, width = 3 * c.input_px;
#pragma omp parallel
  {
    // R, G and B repeated along a row, so that the loops below need no index modulo 3.
    std::vector<float> shifts(width), divisor(width);
    std::vector<uint8_t> reflected(width);
    for (int64_t i = 0; deviation && i < width; i++) divisor[i] = deviation[i % 3];
#pragma omp for schedule(static)
    for (int64_t n = 0; n < c.images; n++) {
      for (int64_t i = 0; i < width; i++) shifts[i] = shift[3 * n + i % 3];
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
        normalize(from, m, shifts.data(), deviation ? divisor.data() : nullptr, c.scale,
                  out + (n * c.input_px + row) * width, width);
      }
    }
  }
}

// The same for crops of any size and shape, rescaled bilinearly. rows, columns: (images, input_px),
// the place in the stored image that each row and column of the input is read at, between 0 and
// stored_px - 1; columns fall where the crop is reflected. mean: as for `crop`.
template <typename T>
void zoomed_crop(const uint8_t *images, const float *mean, const float *rows, const float *columns,
                 const float *shift, const float *deviation, T *out, const Crop &c) {
  const int64_t line = 3 * c.stored_px, width = 3 * c.input_px;
#pragma omp parallel
  {
    std::vector<float> shifts(width), divisor(width), none(width), crop(width);
    // A row between two rows of the image. The last column has a neighbor too, with weight 0.
    std::vector<float> between(line + 3);
    for (int64_t i = 0; deviation && i < width; i++) divisor[i] = deviation[i % 3];
#pragma omp for schedule(static)
    for (int64_t n = 0; n < c.images; n++) {
      const float *y = rows + n * c.input_px, *x = columns + n * c.input_px;
      for (int64_t i = 0; i < width; i++) shifts[i] = shift[3 * n + i % 3];
      const auto ends = std::minmax(x[0], x[c.input_px - 1]);
      const int64_t first = 3 * int64_t(ends.first);
      const int64_t last = std::min(line, 3 * int64_t(ends.second) + 6);
      for (int64_t row = 0; row < c.input_px; row++) {
        const int64_t top = int64_t(y[row]), bottom = std::min(top + 1, c.stored_px - 1);
        const float below = y[row] - float(top);
        const uint8_t *a = images + (n * c.stored_px + top) * line;
        const uint8_t *b = images + (n * c.stored_px + bottom) * line;
        const float *p = mean + top * line, *q = mean + bottom * line;
        if (c.mean_moves)
          for (int64_t i = first; i < last; i++)
            between[i] = (1 - below) * (float(a[i]) - p[i]) + below * (float(b[i]) - q[i]);
        else
          for (int64_t i = first; i < last; i++)
            between[i] = (1 - below) * float(a[i]) + below * float(b[i]);
        for (int64_t column = 0; column < c.input_px; column++) {
          const int64_t left = int64_t(x[column]);
          const float right = x[column] - float(left);
          const float *from = between.data() + 3 * left;
          for (int64_t i = 0; i < 3; i++)
            crop[3 * column + i] = (1 - right) * from[i] + right * from[3 + i];
        }
        normalize(crop.data(), c.mean_moves ? none.data() : mean + row * width, shifts.data(),
                  deviation ? divisor.data() : nullptr, c.scale,
                  out + (n * c.input_px + row) * width, width);
      }
    }
  }
}

}  // namespace

#define EXPORT(T, suffix)                                                                        \
  extern "C" void pass_forward_##suffix(const T *x, T *y, uint8_t *which, const Pass *p) {       \
    pass_forward(x, y, which, *p);                                                               \
  }                                                                                              \
  extern "C" void pass_backward_##suffix(const T *x, const T *dy, const uint8_t *which, T *dx,   \
                                         const Pass *p) {                                        \
    pass_backward(x, dy, which, dx, *p);                                                         \
  }                                                                                              \
  extern "C" void spatial_forward_##suffix(const T *x, T *y, int64_t images, int64_t height,     \
                                           int64_t width, int64_t maps, int64_t half, float k,   \
                                           float alpha) {                                        \
    spatial_forward(x, y, images, height, width, maps, half, k, alpha);                          \
  }                                                                                              \
  extern "C" void spatial_backward_##suffix(const T *x, const T *dy, T *dx, int64_t images,      \
                                            int64_t height, int64_t width, int64_t maps,         \
                                            int64_t half, float k, float alpha) {                \
    spatial_backward(x, dy, dx, images, height, width, maps, half, k, alpha);                    \
  }                                                                                              \
  extern "C" void crop_##suffix(const uint8_t *images, const float *mean, const float *mirrored, \
                                const int64_t *top, const int64_t *left, const uint8_t *flip,    \
                                const float *shift, const float *deviation, T *out,              \
                                const Crop *c) {                                                 \
    crop(images, mean, mirrored, top, left, flip, shift, deviation, out, *c);                    \
  }                                                                                              \
  extern "C" void zoomed_crop_##suffix(const uint8_t *images, const float *mean,                 \
                                       const float *rows, const float *columns,                  \
                                       const float *shift, const float *deviation, T *out,       \
                                       const Crop *c) {                                          \
    zoomed_crop(images, mean, rows, columns, shift, deviation, out, *c);                         \
  }

EXPORT(float, float32)
EXPORT(bfloat16, bfloat16)

// Adds the sums over pixels of the products of R, G and B to sums, (3, 3). The sums of 4096
// products, each at most 255 x 255, fit into 32 bits, in which a vector holds twice as many of them
// as in 64.
extern "C" void products(const uint8_t *rgb, int64_t pixels, int64_t *sums) {
  constexpr int64_t PIECE = 4096;
  for (int64_t first = 0; first < pixels; first += PIECE) {
    uint32_t rr = 0, rg = 0, rb = 0, gg = 0, gb = 0, bb = 0;
    for (int64_t i = first; i < std::min(pixels, first + PIECE); i++) {
      const uint32_t r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2];
      rr += r * r, rg += r * g, rb += r * b, gg += g * g, gb += g * b, bb += b * b;
    }
    const uint32_t all[9] = {rr, rg, rb, rg, gg, gb, rb, gb, bb};
    for (int k = 0; k < 9; k++) sums[k] += all[k];
  }
}

// v <- momentum v - lr g - decay w, and w <- w + v, where decay is weight decay times lr. One pass
// makes five transfers of a tensor (it reads w, v and g and writes w and v), and PyTorch's four
// operations in place make eleven.
extern "C" void update(float *w, float *v, const float *g, int64_t count, float momentum, float lr,
                       float decay) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; i++) {
    v[i] = momentum * v[i] - lr * g[i] - decay * w[i];
    w[i] += v[i];
  }
}

// Philox4x32-10 of LANES consecutive counters from `counter` on. words: the four words of the first
// counter, those of the second, and so on. Loops over lanes are vector loops.
constexpr int64_t LANES = 16;
inline void philox(uint64_t key, uint64_t counter, uint32_t *words) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  uint32_t c0[LANES], c1[LANES], c2[LANES] = {}, c3[LANES] = {};
  for (int64_t i = 0; i < LANES; i++)
    c0[i] = uint32_t(counter + i), c1[i] = uint32_t((counter + i) >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
    for (int64_t i = 0; i < LANES; i++) {
      const uint64_t first = uint64_t(c0[i]) * 0xD2511F53u, second = uint64_t(c2[i]) * 0xCD9E8D57u;
      c0[i] = uint32_t(second >> 32) ^ c1[i] ^ k0, c1[i] = uint32_t(second);
      c2[i] = uint32_t(first >> 32) ^ c3[i] ^ k1, c3[i] = uint32_t(first);
    }
  for (int64_t i = 0; i < LANES; i++)
    words[4 * i] = c0[i], words[4 * i + 1] = c1[i], words[4 * i + 2] = c2[i],
              words[4 * i + 3] = c3[i];
}

// The mask of `rows` rows of `count` units; see `Mask` in ops/dropout_mask.py. The numbers of the units
// of a row are consecutive; those of the first row begin at `first`, and those of the next row
// `units` later. A unit is kept (1) if its word is at least `threshold`.
extern "C" void dropout_mask(int64_t key, int64_t threshold, int64_t rows, int64_t count,
                             int64_t first, int64_t units, uint8_t *keep) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const int64_t begin = first + row * units, end = begin + count;
    uint8_t *out = keep + row * count;
    for (int64_t number = begin / 4 * 4; number < end; number += 4 * LANES) {
      uint32_t words[4 * LANES];
      uint8_t kept[4 * LANES];
      philox(uint64_t(key), uint64_t(number / 4), words);
      for (int64_t i = 0; i < 4 * LANES; i++) kept[i] = int64_t(words[i]) >= threshold;
      // A row may begin and end between two counters.
      const int64_t from = std::max(begin, number), to = std::min(end, number + 4 * LANES);
      std::memcpy(out + from - begin, kept + from - number, to - from);
    }
  }
}

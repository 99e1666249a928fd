// Convolutions by tiles, ops/winograd.py: pixels to tiles, products of tiles, tiles to pixels.
//
// The formulas are explained there; the plain version is PyTorch's convolution, and that of the
// products its `bmm`. Tensors are channels last, so that a vector holds 16 maps of one pixel and
// every transform works on 16 maps at once. `native/__init__.py` compiles the file on first use and
// declares its functions.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t LANES = 16;  // as in native/__init__.py
typedef float Vector __attribute__((vector_size(4 * LANES)));

// Through memcpy, because tensors are not aligned to 64 bytes.
inline Vector load(const float *p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, Vector v) { std::memcpy(p, &v, sizeof v); }

// Images side by side on one canvas, `across` in a row, with a row and a column of zeros behind
// each: its own padding and that of its neighbor. Tiles of 4x4 results cover the canvas. A map of
// 13x13 pixels alone would need 16 tiles, whose last row and column hold one pixel of four.
//
// The fields must be those of `Canvas` in native/__init__.py, in the same order.
struct Canvas {
  int64_t images, height, width, maps, groups, across, tile_rows, tile_columns;

  // The maps of a pixel of the canvas, or null for a pixel of the padding.
  const float *at(const float *pixels, int64_t row, int64_t column) const {
    if (row < 0 || column < 0) return nullptr;
    const int64_t y = row % (height + 1), x = column % (width + 1);
    const int64_t image_column = column / (width + 1);
    const int64_t image = row / (height + 1) * across + image_column;
    if (y == height || x == width || image_column >= across || image >= images) return nullptr;
    return pixels + ((image * height + y) * width + x) * maps;
  }
};

// The three transforms take values that lie `from` apart and write results that lie `to` apart, so
// that the same code transforms the columns of a tile and then its rows. Common terms are computed
// once: the compiler may not reorder sums of floats.

// B^T d, of 6 values
inline void inputs(const Vector *d, int from, Vector *out, int to) {
  const Vector d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from],
               d5 = d[5 * from];
  const Vector a = d4 - 4 * d2, b = d3 - 4 * d1, e = d4 - d2, f = 2 * (d3 - d1);
  out[0] = 4 * d0 - 5 * d2 + d4;
  out[to] = a + b;
  out[2 * to] = a - b;
  out[3 * to] = e + f;
  out[4 * to] = e - f;
  out[5 * to] = 4 * d1 - 5 * d3 + d5;
}

// A d, of 4 values
inline void gradients(const Vector *d, int from, Vector *out, int to) {
  const Vector d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from];
  const Vector a = d0 + d2, b = d1 + d3, e = d0 + 4 * d2, f = 2 * d1 + 8 * d3;
  out[0] = d0;
  out[to] = a + b;
  out[2 * to] = a - b;
  out[3 * to] = e + f;
  out[4 * to] = e - f;
  out[5 * to] = d3;
}

// A^T m, of 6 values
inline void results(const Vector *m, int from, Vector *out, int to) {
  const Vector p = m[from] + m[2 * from], q = m[from] - m[2 * from];
  const Vector r = m[3 * from] + m[4 * from], u = m[3 * from] - m[4 * from];
  out[0] = m[0] + p + r;
  out[to] = q + 2 * u;
  out[2 * to] = p + 4 * r;
  out[3 * to] = q + 8 * u + m[5 * from];
}

// Transforms the SIZE x SIZE pixels of every tile to its 36 values, in the order
// (groups, 36, tiles, maps of a group): each of the 36 is then a matrix for a batched product.
template <int SIZE>
void spread(const float *pixels, float *out, const Canvas &c) {
  constexpr auto transform = SIZE == 6 ? inputs : gradients;
  // A tile of inputs begins one pixel before its results, because a filter of 3x3 reaches that far.
  constexpr int64_t back = SIZE == 6 ? 1 : 0;
  const int64_t tiles = c.tile_rows * c.tile_columns, group_maps = c.maps / c.groups;
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t top = 4 * (tile / c.tile_columns) - back,
                  left = 4 * (tile % c.tile_columns) - back;
    const float *from[SIZE * SIZE];
    for (int i = 0; i < SIZE * SIZE; i++) from[i] = c.at(pixels, top + i / SIZE, left + i % SIZE);
    for (int64_t map = 0; map < c.maps; map += LANES) {
      Vector d[SIZE * SIZE], half[6 * SIZE], full[36];
      for (int i = 0; i < SIZE * SIZE; i++) d[i] = from[i] ? load(from[i] + map) : Vector{};
      for (int j = 0; j < SIZE; j++) transform(d + j, SIZE, half + j, SIZE);
      for (int i = 0; i < 6; i++) transform(half + SIZE * i, 1, full + 6 * i, 1);
      float *to = out + (map / group_maps * 36 * tiles + tile) * group_maps + map % group_maps;
      for (int i = 0; i < 36; i++) store(to + i * tiles * group_maps, full[i]);
    }
  }
}

// The sums of a block of a product stay in registers: ROWS x COLUMNS of them, and beside them the
// vectors of a row of b, and one more that holds a value of a in every place. A vector is a register,
// of which AVX-512 has 32 of 16 floats and AVX2 16 of 8: the compiler keeps wider ones in memory.
#if defined(__AVX512F__)
constexpr int64_t WIDTH = 16, ROWS = 8, COLUMNS = 3;
#else
constexpr int64_t WIDTH = 8, ROWS = 6, COLUMNS = 2;
#endif
typedef float Register __attribute__((vector_size(4 * WIDTH)));
// Rows of a that one thread multiplies, a multiple of both ROWS, and terms of a sum that are added
// at once: a panel of b stays in the first cache (in the second one where the first has 32 KiB), the
// rows of a in the second.
constexpr int64_t MOST_ROWS = 216, MOST_TERMS = 192;

// A matrix whose rows lie `row` apart, and the values of a row `term`.
struct Matrix {
  const float *values;
  int64_t row, term;
};

// R rows of a, times a panel: C vectors of each row of b.
template <int64_t R, int64_t C>
void block(Matrix a, const float *panel, int64_t columns, int64_t terms, float *sums, bool add) {
  Register s[R][C] = {}, x[C], old;
  for (int64_t k = 0; k < terms; k++) {
    for (int64_t c = 0; c < C; c++) std::memcpy(&x[c], panel + (k * C + c) * WIDTH, sizeof old);
    for (int64_t r = 0; r < R; r++) {
      const float value = a.values[r * a.row + k * a.term];
      for (int64_t c = 0; c < C; c++) s[r][c] += value * x[c];
    }
  }
  for (int64_t r = 0; r < R; r++)
    for (int64_t c = 0; c < C; c++) {
      float *to = sums + r * columns + c * WIDTH;
      if (add) {
        std::memcpy(&old, to, sizeof old);
        s[r][c] += old;
      }
      std::memcpy(to, &s[r][c], sizeof old);
    }
}

// All rows of a, times C vectors of the rows of b.
template <int64_t C>
void strip(Matrix a, int64_t rows, const float *b, int64_t columns, int64_t terms, float *sums,
           bool add) {
  // Rows of b lie so far apart that many fall into the same set of the first cache; those of a
  // panel lie one behind the other.
  alignas(64) float panel[MOST_TERMS * C * WIDTH];
  for (int64_t k = 0; k < terms; k++)
    std::memcpy(panel + k * C * WIDTH, b + k * columns, C * WIDTH * sizeof(float));
  int64_t r = 0;
  const auto next = [&](auto block, int64_t count) {
    for (; r + count <= rows; r += count)
      block({a.values + r * a.row, a.row, a.term}, panel, columns, terms, sums + r * columns, add);
  };
  next(block<ROWS, C>, ROWS);
  next(block<4, C>, 4);
  next(block<1, C>, 1);
}

// sums = a b, or sums += a b, for each of `count` matrices. `columns` is a multiple of LANES.
void multiply(Matrix a, const float *b, float *sums, int64_t count, int64_t rows, int64_t terms,
              int64_t columns, bool add) {
  const int64_t parts = (rows + MOST_ROWS - 1) / MOST_ROWS;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count * parts; i++) {
    const int64_t matrix = i / parts, first = i % parts * MOST_ROWS;
    for (int64_t term = 0; term < terms; term += MOST_TERMS) {
      const Matrix part = {
          a.values + matrix * rows * terms + first * a.row + term * a.term, a.row, a.term};
      const float *from = b + (matrix * terms + term) * columns;
      float *to = sums + (matrix * rows + first) * columns;
      const int64_t some_rows = std::min(MOST_ROWS, rows - first),
                    some_terms = std::min(MOST_TERMS, terms - term);
      int64_t c = 0;
      for (; c + COLUMNS * WIDTH <= columns; c += COLUMNS * WIDTH)
        strip<COLUMNS>(part, some_rows, from + c, columns, some_terms, to + c, add || term);
      for (; c < columns; c += WIDTH)
        strip<1>(part, some_rows, from + c, columns, some_terms, to + c, add || term);
    }
  }
}

}  // namespace

// sums = a b: a is (count, rows, terms), b (count, terms, columns).
extern "C" void products(const float *a, const float *b, float *sums, int64_t count, int64_t rows,
                         int64_t terms, int64_t columns) {
  multiply({a, terms, 1}, b, sums, count, rows, terms, columns, false);
}
// sums += a^T b: a is (count, terms, rows), b (count, terms, columns).
extern "C" void add_transposed_products(const float *a, const float *b, float *sums, int64_t count,
                                        int64_t rows, int64_t terms, int64_t columns) {
  multiply({a, 1, rows}, b, sums, count, rows, terms, columns, true);
}

extern "C" void spread_inputs(const float *x, float *out, const Canvas *c) {
  spread<6>(x, out, *c);
}
extern "C" void spread_gradients(const float *dy, float *out, const Canvas *c) {
  spread<4>(dy, out, *c);
}

// Transforms the 36 sums of every tile to 4x4 pixels, and adds a bias for each map.
extern "C" void collect(const float *sums, const float *bias, float *pixels, const Canvas *canvas) {
  const Canvas &c = *canvas;
  const int64_t tiles = c.tile_rows * c.tile_columns, group_maps = c.maps / c.groups;
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t top = 4 * (tile / c.tile_columns), left = 4 * (tile % c.tile_columns);
    float *to[16];
    for (int i = 0; i < 16; i++)
      to[i] = const_cast<float *>(c.at(pixels, top + i / 4, left + i % 4));
    for (int64_t map = 0; map < c.maps; map += LANES) {
      Vector m[36], half[24], full[16];
      const float *from =
          sums + (map / group_maps * 36 * tiles + tile) * group_maps + map % group_maps;
      for (int i = 0; i < 36; i++) m[i] = load(from + i * tiles * group_maps);
      for (int j = 0; j < 6; j++) results(m + j, 6, half + j, 6);
      for (int i = 0; i < 4; i++) results(half + 6 * i, 1, full + 4 * i, 1);
      const Vector b = load(bias + map);
      for (int i = 0; i < 16; i++)
        if (to[i]) store(to[i] + map, full[i] + b);
    }
  }
}

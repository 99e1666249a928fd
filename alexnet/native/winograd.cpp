// The transforms around the products of ops/winograd.py: pixels to tiles, and tiles to pixels.
//
// The formulas are explained there; the plain version is PyTorch's convolution. Tensors are
// channels last, so that a vector holds 16 maps of one pixel and every transform works on 16 maps
// at once. `native/__init__.py` compiles the file on first use and declares its functions.

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

}  // namespace

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

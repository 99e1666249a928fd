// What stands around the products of winograd.py, whose formulas these are; its slow twin is PyTorch's convolution.
// Pictures are channels last; sixteen of their maps are one vector. Compiled on first use by native.py.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t LANES = 16;
typedef float Vector __attribute__((vector_size(4 * LANES)));

inline Vector load(const float *p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float *p, Vector v) { std::memcpy(p, &v, sizeof v); }

// As in native.py. Pictures lie side by side on one canvas, `across` in a row, with a row and a column of zeros behind
// each, which are its own border and the next one's; tiles of 4x4 results cover the canvas.
struct Canvas {
  int64_t images, height, width, maps, groups, across, tile_rows, tile_columns;

  // where a pixel of the canvas is in the pictures; null in the border
  const float *at(const float *pictures, int64_t row, int64_t column) const {
    if (row < 0 || column < 0) return nullptr;
    const int64_t y = row % (height + 1), x = column % (width + 1), place = column / (width + 1);
    const int64_t image = row / (height + 1) * across + place;
    if (y == height || x == width || place >= across || image >= images) return nullptr;
    return pictures + ((image * height + y) * width + x) * maps;
  }
};

// d (6 values, `from` apart) to B^T d (`to` apart)
inline void inputs(const Vector *d, int from, Vector *out, int to) {
  const Vector d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from], d5 = d[5 * from];
  const Vector a = d4 - 4 * d2, b = d3 - 4 * d1, e = d4 - d2, f = 2 * (d3 - d1);
  out[0] = 4 * d0 - 5 * d2 + d4;
  out[to] = a + b;
  out[2 * to] = a - b;
  out[3 * to] = e + f;
  out[4 * to] = e - f;
  out[5 * to] = 4 * d1 - 5 * d3 + d5;
}

// d (4 values) to A d
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

// m (6 values) to A^T m
inline void results(const Vector *m, int from, Vector *out, int to) {
  const Vector p = m[from] + m[2 * from], q = m[from] - m[2 * from];
  const Vector r = m[3 * from] + m[4 * from], u = m[3 * from] - m[4 * from];
  out[0] = m[0] + p + r;
  out[to] = q + 2 * u;
  out[2 * to] = p + 4 * r;
  out[3 * to] = q + 8 * u + m[5 * from];
}

// Every tile's SIZE x SIZE pixels to its 36 values: (groups, 36, tiles, maps of a group)
template <int SIZE>
void spread(const float *pictures, float *out, const Canvas &c) {
  constexpr auto one = SIZE == 6 ? inputs : gradients;
  constexpr int64_t back = SIZE == 6 ? 1 : 0;
  const int64_t tiles = c.tile_rows * c.tile_columns, own = c.maps / c.groups;
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t top = 4 * (tile / c.tile_columns) - back, left = 4 * (tile % c.tile_columns) - back;
    const float *from[SIZE * SIZE];
    for (int i = 0; i < SIZE * SIZE; i++) from[i] = c.at(pictures, top + i / SIZE, left + i % SIZE);
    for (int64_t map = 0; map < c.maps; map += LANES) {
      Vector d[SIZE * SIZE], half[6 * SIZE], whole[36];
      for (int i = 0; i < SIZE * SIZE; i++) d[i] = from[i] ? load(from[i] + map) : Vector{};
      for (int j = 0; j < SIZE; j++) one(d + j, SIZE, half + j, SIZE);
      for (int i = 0; i < 6; i++) one(half + SIZE * i, 1, whole + 6 * i, 1);
      float *to = out + (map / own * 36 * tiles + tile) * own + map % own;
      for (int i = 0; i < 36; i++) store(to + i * tiles * own, whole[i]);
    }
  }
}

}  // namespace

extern "C" void spread_inputs(const float *x, float *out, const Canvas *c) { spread<6>(x, out, *c); }
extern "C" void spread_gradients(const float *dy, float *out, const Canvas *c) { spread<4>(dy, out, *c); }

// The other way: the tiles' 36 sums to pictures, with a bias for each map
extern "C" void collect(const float *sums, const float *bias, float *pictures, const Canvas *canvas) {
  const Canvas &c = *canvas;
  const int64_t tiles = c.tile_rows * c.tile_columns, own = c.maps / c.groups;
#pragma omp parallel for schedule(static)
  for (int64_t tile = 0; tile < tiles; tile++) {
    const int64_t top = 4 * (tile / c.tile_columns), left = 4 * (tile % c.tile_columns);
    float *to[16];
    for (int i = 0; i < 16; i++) to[i] = const_cast<float *>(c.at(pictures, top + i / 4, left + i % 4));
    for (int64_t map = 0; map < c.maps; map += LANES) {
      Vector m[36], half[24], whole[16];
      const float *from = sums + (map / own * 36 * tiles + tile) * own + map % own;
      for (int i = 0; i < 36; i++) m[i] = load(from + i * tiles * own);
      for (int j = 0; j < 6; j++) results(m + j, 6, half + j, 6);
      for (int i = 0; i < 4; i++) results(half + 6 * i, 1, whole + 4 * i, 1);
      const Vector b = load(bias + map);
      for (int i = 0; i < 16; i++)
        if (to[i]) store(to[i] + map, whole[i] + b);
    }
  }
}

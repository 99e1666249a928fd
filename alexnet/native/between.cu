// All that stands between two convolutions on CUDA, in one kernel each way: bias, ReLU, response
// normalization, maximum over windows, ReLU (sections 3.1, 3.3 and 3.4).
//
// `ops/cuda_between.py` compiles the file by NVRTC and launches the kernels. `triton_between.py` has
// the same operations in Triton, and `ops/plain.py` as formulas. Tensors are channels last and
// bfloat16 in memory, float in registers; beta is 3/4.
//
// The gain over Triton should be in two places. A block of the forward pass computes a normalized
// value once and keeps it in shared memory, where every window that has it reads it. And a thread
// has eight neighboring maps of a pixel, and those beside them, in registers: the sum over maps is
// a few additions, where Triton multiplies by a matrix.
//
// All sizes are macros, so that every loop is unrolled:
//   HEIGHT WIDTH          pixels of the input's maps
//   OUT_HEIGHT OUT_WIDTH  pixels of the output's maps
//   COLUMN_MAPS COLUMNS   maps of a column, a multiple of 8, and columns
//   HALF                  maps on either side that are summed over, at most 4; -1: no normalization
//   K ALPHA               constants of the normalization
//   SIZE_PX STRIDE        of the windows; 1 and 1: no maximum
//   RELU RELU_AFTER       whether there is one before, and after; windows need one of the two
//   THREADS               of a block, a multiple of COLUMN_MAPS / 8
//   OUT_ROWS              rows of the output that a block of the forward pass computes
//   TURNS                 pixels that a thread of the backward pass computes
//
// With EMULATE the file is C++: a program that runs the blocks one after the other, and in a block
// its threads, one after the other between two barriers. Tests compare that with the formulas.

typedef unsigned short bfloat16;
typedef unsigned int u32;
typedef unsigned char u8;
typedef long long i64;

#ifdef EMULATE
#include <cmath>
#include <cstring>
#include <vector>
struct uint4 {
  u32 x, y, z, w;
};
struct uint2 {
  u32 x, y;
};
static struct {
  u32 x, y;
} blockIdx;
#define KERNEL static void
#define EACH_THREAD for (u32 thread = 0; thread < THREADS; thread++)
// A variable that a thread keeps across a barrier: one for each thread.
#define KEPT(type, name) std::vector<type> name##_of_all(THREADS)
#define MINE(name) name##_of_all[thread]
#define BARRIER
#define DEVICE static inline
DEVICE float float_of(u32 bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
DEVICE u32 rounded(float value) {
  u32 bits;
  std::memcpy(&bits, &value, 4);
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fffu : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
DEVICE u32 packed(float low, float high) { return rounded(low) | rounded(high) << 16; }
DEVICE float inverse_root(float value) { return 1.0f / std::sqrt(value); }
DEVICE float root(float value) { return std::sqrt(value); }
static uint4 shared[1 << 14];
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define EACH_THREAD for (u32 thread = threadIdx.x, once = 1; once; once = 0)
#define KEPT(type, name) type name
#define MINE(name) name
#define BARRIER __syncthreads()
#define DEVICE static __device__ __forceinline__
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 packed(float low, float high) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
// Wrong by less than 2^-21 of the value; bfloat16 rounds to 2^-9.
DEVICE float inverse_root(float value) {
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
DEVICE float root(float value) {
  float result;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
extern __shared__ uint4 shared[];
#endif

// A thread has the eight maps of one group, and PADDING maps of the column on either side.
#define GROUPS (COLUMN_MAPS / 8)
#define MAPS (COLUMN_MAPS * COLUMNS)
#define PADDING (HALF > 2 ? 4 : HALF > 0 ? 2 : 0)
#define SEEN (8 + 2 * PADDING)
#define PIXELS_AT_ONCE (THREADS / GROUPS)
// The position of a maximum of 0, through which no gradient passes.
#define NO_GRADIENT 255u

struct Maps8 {
  float v[8];
};
struct MapsSeen {
  float v[SEEN];
};

DEVICE float low_of(u32 both) { return float_of(both << 16); }
DEVICE float high_of(u32 both) { return float_of(both & 0xffff0000u); }

DEVICE void load8(const bfloat16 *from, float *to) {
  uint4 words = *reinterpret_cast<const uint4 *>(from);
  to[0] = low_of(words.x), to[1] = high_of(words.x);
  to[2] = low_of(words.y), to[3] = high_of(words.y);
  to[4] = low_of(words.z), to[5] = high_of(words.z);
  to[6] = low_of(words.w), to[7] = high_of(words.w);
}

DEVICE uint4 packed8(const float *v) {
  return uint4{packed(v[0], v[1]), packed(v[2], v[3]), packed(v[4], v[5]), packed(v[6], v[7])};
}

DEVICE void load_padding(const bfloat16 *from, float *to) {
#pragma unroll
  for (int i = 0; i < PADDING / 2; i++) {
    u32 both = reinterpret_cast<const u32 *>(from)[i];
    to[2 * i] = low_of(both), to[2 * i + 1] = high_of(both);
  }
}

// The biases of a group's maps and of those beside it, 0 outside of the column.
DEVICE void load_biases(const float *bias, u32 group, float *to) {
#pragma unroll
  for (int i = 0; i < SEEN; i++) {
    int map = int(group) * 8 + i - PADDING;
    to[i] = map >= 0 && map < COLUMN_MAPS ? bias[map] : 0.0f;
  }
}

// The input of the normalization, for a group's maps and those beside it; 0 outside of the column.
DEVICE void load_activations(const bfloat16 *x, u32 group, const float *bias, float *a) {
#pragma unroll
  for (int i = 0; i < SEEN; i++) a[i] = 0.0f;
  load8(x, a + PADDING);
  if (HALF > 0 && group > 0) load_padding(x - PADDING, a);
  if (HALF > 0 && group + 1 < GROUPS) load_padding(x + 8, a + PADDING + 8);
#pragma unroll
  for (int i = 0; i < SEEN; i++) {
    a[i] += bias[i];
    // A NaN stays one, and -0 becomes 0, whose bits are the least.
    if (RELU) a[i] = a[i] <= 0.0f ? 0.0f : a[i];
  }
}

// d^-1/2 of a group's maps, with d = k + alpha times the sum of squares.
DEVICE void inverse_roots(const float *a, float *result) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float sum = a[i + PADDING] * a[i + PADDING];
#pragma unroll
    for (int j = 1; j <= HALF; j++)
      sum += a[i + PADDING - j] * a[i + PADDING - j] + a[i + PADDING + j] * a[i + PADDING + j];
    result[i] = inverse_root(float(K) + float(ALPHA) * sum);
  }
}

// y, and in `position` where in its window each maximum is. Grid: (images * strips of OUT_ROWS
// rows, COLUMNS). Shared memory: the normalized values that the windows of a strip see.
KERNEL between_forward(const bfloat16 *x, const float *bias, bfloat16 *y, u8 *position) {
  const u32 strips = (OUT_HEIGHT + OUT_ROWS - 1) / OUT_ROWS;
  const u32 column = blockIdx.y, first_out = blockIdx.x % strips * OUT_ROWS;
  const i64 image = blockIdx.x / strips;
  const u32 out_rows = first_out + OUT_ROWS > OUT_HEIGHT ? OUT_HEIGHT - first_out : OUT_ROWS;
  const u32 first = first_out * STRIDE, seen = first + (out_rows - 1) * STRIDE + SIZE_PX;
  const u32 rows = (seen > HEIGHT ? HEIGHT : seen) - first;
  x += (image * HEIGHT + first) * WIDTH * MAPS + column * COLUMN_MAPS;
  const i64 out = (image * OUT_HEIGHT + first_out) * OUT_WIDTH * MAPS + column * COLUMN_MAPS;
  y += out;
  EACH_THREAD {
    const u32 group = thread % GROUPS;
    float biases[SEEN];
    load_biases(bias + column * COLUMN_MAPS, group, biases);
    for (u32 pixel = thread / GROUPS; pixel < rows * WIDTH; pixel += PIXELS_AT_ONCE) {
      float a[SEEN], result[8];
      const i64 at = i64(pixel) * MAPS + group * 8;
      load_activations(x + at, group, biases, a);
      if (HALF >= 0) inverse_roots(a, result);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        // d^-3/4 = d^-1/2 sqrt(d^-1/2)
        result[i] = a[i + PADDING] * (HALF >= 0 ? result[i] * root(result[i]) : 1.0f);
        if (RELU_AFTER) result[i] = result[i] <= 0.0f ? 0.0f : result[i];
      }
      if (SIZE_PX == 1)
        *reinterpret_cast<uint4 *>(y + at) = packed8(result);
      else
        shared[pixel * GROUPS + group] = packed8(result);
    }
  }
  if (SIZE_PX == 1) return;
  position += out;
  BARRIER;
  // No value is below 0, so the largest has the largest bits, and a NaN larger ones than all. Below
  // the bits stands how many pixels of the window follow: of equal values the first one wins.
  EACH_THREAD {
    const u32 group = thread % GROUPS;
    for (u32 pixel = thread / GROUPS; pixel < out_rows * OUT_WIDTH; pixel += PIXELS_AT_ONCE) {
      const u32 top = pixel / OUT_WIDTH * STRIDE, left = pixel % OUT_WIDTH * STRIDE;
      u32 best[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
      for (u32 number = 0; number < SIZE_PX * SIZE_PX; number++) {
        const u32 row = top + number / SIZE_PX, col = left + number % SIZE_PX;
        if (row >= rows || col >= WIDTH) continue;  // a partial window
        const uint4 both = shared[(row * WIDTH + col) * GROUPS + group];
        const u32 words[4] = {both.x, both.y, both.z, both.w};
        const u32 follow = SIZE_PX * SIZE_PX - 1 - number;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 low = (words[i] & 0xffffu) << 8 | follow, high = words[i] >> 16 << 8 | follow;
          best[2 * i] = best[2 * i] > low ? best[2 * i] : low;
          best[2 * i + 1] = best[2 * i + 1] > high ? best[2 * i + 1] : high;
        }
      }
      u32 values[4], positions[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < 4; i++) values[i] = best[2 * i] >> 8 | best[2 * i + 1] >> 8 << 16;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const u32 number = SIZE_PX * SIZE_PX - 1 - (best[i] & 255u);
        positions[i / 4] |= (best[i] >> 8 ? number : NO_GRADIENT) << 8 * (i % 4);
      }
      const i64 at = i64(pixel) * MAPS + group * 8;
      *reinterpret_cast<uint4 *>(y + at) = uint4{values[0], values[1], values[2], values[3]};
      *reinterpret_cast<uint2 *>(position + at) = uint2{positions[0], positions[1]};
    }
  }
}

// Add up the gradients of the windows in which a value at this pixel is the maximum, for eight maps.
DEVICE void gradient_of_maximum(
    const bfloat16 *dy, const u8 *position, u32 pixel, u32 group, float *g) {
  const u32 right = pixel % WIDTH, down = pixel / WIDTH % HEIGHT;
  const i64 first = i64(pixel / (WIDTH * HEIGHT)) * OUT_HEIGHT;
#pragma unroll
  for (u32 up = 0; up <= (SIZE_PX - 1) / STRIDE; up++) {
    // Above the first window `top` wraps round and is larger than any.
    const u32 top = down / STRIDE - up, row = down % STRIDE + up * STRIDE;
    if (row >= SIZE_PX || top >= OUT_HEIGHT) continue;
#pragma unroll
    for (u32 back = 0; back <= (SIZE_PX - 1) / STRIDE; back++) {
      const u32 left = right / STRIDE - back, col = right % STRIDE + back * STRIDE;
      if (col >= SIZE_PX || left >= OUT_WIDTH) continue;
      const i64 at = ((first + top) * OUT_WIDTH + left) * MAPS + group * 8;
      const uint2 positions = *reinterpret_cast<const uint2 *>(position + at);
      float of_window[8];
      load8(dy + at, of_window);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const u32 held = (i < 4 ? positions.x : positions.y) >> 8 * (i % 4) & 255u;
        g[i] += held == row * SIZE_PX + col ? of_window[i] : 0.0f;
      }
    }
  }
}

// dx, and in dbias, (blocks, MAPS), the sum of a block. With e = a dy d^(-7/4) the gradient is
// dy d^-3/4 - 2 alpha beta a S(e). Grid: (blocks of PIXELS_AT_ONCE * TURNS pixels, COLUMNS). Shared
// memory: 32 bytes a thread, for the sums that neighboring groups exchange and for those of dbias.
KERNEL between_backward(
    const bfloat16 *x, const float *bias, const bfloat16 *dy, const u8 *position, bfloat16 *dx,
    float *dbias, int pixels) {
  const u32 column = blockIdx.y, offset = column * COLUMN_MAPS;
  x += offset, dx += offset, dy += offset, position += offset;
  float *exchanged = reinterpret_cast<float *>(shared);
  KEPT(Maps8, sum);
  KEPT(MapsSeen, biases);
  KEPT(MapsSeen, a);
  KEPT(Maps8, g);
  KEPT(Maps8, e);
  EACH_THREAD {
    load_biases(bias + offset, thread % GROUPS, MINE(biases).v);
#pragma unroll
    for (int i = 0; i < 8; i++) MINE(sum).v[i] = 0.0f;
  }
  for (u32 turn = 0; turn < TURNS; turn++) {
    EACH_THREAD {
      const u32 group = thread % GROUPS;
      const u32 pixel = (blockIdx.x * TURNS + turn) * PIXELS_AT_ONCE + thread / GROUPS;
      const i64 at = i64(pixel) * MAPS + group * 8;
#pragma unroll
      for (int i = 0; i < 8; i++) MINE(g).v[i] = MINE(e).v[i] = 0.0f;
#pragma unroll
      for (int i = 0; i < SEEN; i++) MINE(a).v[i] = 0.0f;
      if (pixel < u32(pixels)) {
        if (SIZE_PX == 1)
          load8(dy + at, MINE(g).v);
        else
          gradient_of_maximum(dy, position, pixel, group, MINE(g).v);
        if (RELU || HALF >= 0) load_activations(x + at, group, MINE(biases).v, MINE(a).v);
        if (HALF >= 0) {
          float roots[8];
          inverse_roots(MINE(a).v, roots);
#pragma unroll
          for (int i = 0; i < 8; i++) {
            MINE(g).v[i] *= roots[i] * root(roots[i]);
            MINE(e).v[i] = MINE(g).v[i] * MINE(a).v[i + PADDING] * roots[i] * roots[i];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < PADDING; i++) {
        exchanged[(thread * 2) * PADDING + i] = MINE(e).v[i];
        exchanged[(thread * 2 + 1) * PADDING + i] = MINE(e).v[8 - PADDING + i];
      }
    }
    if (HALF > 0) BARRIER;
    EACH_THREAD {
      const u32 group = thread % GROUPS;
      const u32 pixel = (blockIdx.x * TURNS + turn) * PIXELS_AT_ONCE + thread / GROUPS;
      if (HALF >= 0) {
        float near[SEEN];
#pragma unroll
        for (int i = 0; i < 8; i++) near[i + PADDING] = MINE(e).v[i];
#pragma unroll
        for (int i = 0; i < PADDING; i++) {
          near[i] = group > 0 ? exchanged[(thread * 2 - 1) * PADDING + i] : 0.0f;
          near[PADDING + 8 + i] =
              group + 1 < GROUPS ? exchanged[(thread * 2 + 2) * PADDING + i] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
          float all = near[i + PADDING];
#pragma unroll
          for (int j = 1; j <= HALF; j++) all += near[i + PADDING - j] + near[i + PADDING + j];
          MINE(g).v[i] -= 1.5f * float(ALPHA) * MINE(a).v[i + PADDING] * all;
        }
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        // A NaN lets the gradient through, as in PyTorch.
        if (RELU) MINE(g).v[i] = MINE(a).v[i + PADDING] <= 0.0f ? 0.0f : MINE(g).v[i];
      }
      if (pixel < u32(pixels)) {
        *reinterpret_cast<uint4 *>(dx + i64(pixel) * MAPS + group * 8) = packed8(MINE(g).v);
#pragma unroll
        for (int i = 0; i < 8; i++) MINE(sum).v[i] += MINE(g).v[i];
      }
    }
    // Before the next turn writes what this one still reads.
    if (HALF > 0) BARRIER;
  }
  EACH_THREAD {
#pragma unroll
    for (int i = 0; i < 8; i++) exchanged[i * THREADS + thread] = MINE(sum).v[i];
  }
  BARRIER;
  EACH_THREAD {
    for (u32 map = thread; map < COLUMN_MAPS; map += THREADS) {
      float all = 0.0f;
      for (u32 pixel = 0; pixel < PIXELS_AT_ONCE; pixel++)
        all += exchanged[map % 8 * THREADS + pixel * GROUPS + map / 8];
      dbias[i64(blockIdx.x) * MAPS + offset + map] = all;
    }
  }
}

#ifdef EMULATE
extern "C" void emulate_forward(
    u32 grid_x, const bfloat16 *x, const float *bias, bfloat16 *y, u8 *position) {
  for (blockIdx.y = 0; blockIdx.y < COLUMNS; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid_x; blockIdx.x++) between_forward(x, bias, y, position);
}
extern "C" void emulate_backward(
    u32 grid_x, const bfloat16 *x, const float *bias, const bfloat16 *dy, const u8 *position,
    bfloat16 *dx, float *dbias, int pixels) {
  for (blockIdx.y = 0; blockIdx.y < COLUMNS; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid_x; blockIdx.x++)
      between_backward(x, bias, dy, position, dx, dbias, pixels);
}
#endif

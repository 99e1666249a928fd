// Baseline JPEG to RGB for the pictures of a store: YCbCr, 4:2:0 or 4:4:4, no restarts, sides of whole MCUs.
//
// The same bits as libjpeg's accurate integer transform and triangle upsampling give (ITU T.81; jidctint.c, jdsample.c,
// jdcolor.c); what is not of that kind, or looks damaged, is left to the caller. It is faster by three things: one look
// in a table tells what a code and its value consume, and nothing branches on values; bytes are unstuffed beforehand;
// two blocks are transformed at a time.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int LOOK_BITS = 10, END = 128, MOST_BLOCK_BYTES = 64 * 27 / 8 + 16;

constexpr uint8_t ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// Codes of one table (T.81 annex C), and for the next LOOK_BITS bits:
// bits 0..5   what to consume, code and value; 0: the code is longer
// bits 16..23 coefficients to skip; END ends the block
// bits 32..   as many ones as the value has bits
struct Codes {
  uint8_t given[16 + 256];
  int given_size = 0;
  uint64_t look[1 << LOOK_BITS];
  int32_t end[17], offset[17];  // of each length: one more than its last code; from a code to its symbol
  uint8_t symbols[256];
  bool ac;

  uint64_t entry(int length, int symbol) const {
    const int bits = symbol & 15, skip = !ac ? 0 : symbol ? symbol >> 4 : END;
    return uint64_t(length + bits) | uint64_t(skip) << 16 | uint64_t((1 << bits) - 1) << 32;
  }
};

bool build(Codes& codes, const uint8_t* given, int size, bool ac) {
  if (codes.given_size == size && !memcmp(codes.given, given, size)) return true;  // as in the picture before
  codes.given_size = 0;
  codes.ac = ac;
  memset(codes.look, 0, sizeof codes.look);
  memcpy(codes.symbols, given + 16, size - 16);
  int code = 0, number = 0;
  for (int length = 1; length <= 16; ++length, code <<= 1) {
    codes.offset[length] = number - code;
    for (int i = 0; i < given[length - 1]; ++i, ++code, ++number) {
      if (code >= 1 << length) return false;
      const int symbol = codes.symbols[number], bits = symbol & 15;
      if (ac ? (bits == 0 && symbol != 0 && symbol != 0xF0) || bits > 10 : symbol > 11) return false;
      for (int after = 0; length <= LOOK_BITS && after < 1 << (LOOK_BITS - length); ++after)
        codes.look[code << (LOOK_BITS - length) | after] = codes.entry(length, symbol);
    }
    codes.end[length] = code;
  }
  memcpy(codes.given, given, size);
  codes.given_size = size;
  return true;
}

struct Reader {
  const uint8_t* next;
  uint64_t bits = 0;  // from the top
  int count = 0;      // of them

  inline void fill() {  // to 56 or more
    uint64_t more;
    memcpy(&more, next, 8);
    bits |= __builtin_bswap64(more) >> count;
    next += (63 - count) >> 3;
    count |= 56;
  }
};

// Of a code longer than LOOK_BITS; 0 where there is none.
uint64_t long_entry(uint64_t bits, const Codes& codes) {
  const int peek = int(bits >> 48);
  for (int length = LOOK_BITS + 1; length <= 16; ++length) {
    const int code = peek >> (16 - length), number = code + codes.offset[length];
    if (code < codes.end[length])
      return number < 0 || number >= codes.given_size - 16 ? 0 : codes.entry(length, codes.symbols[number]);
  }
  return 0;
}

// The next code with its value, which are consumed; T.81 F.2.2.1 and F.2.2.2. What to consume waits for one look only.
inline uint64_t next_code(Reader& reader, const Codes& codes, int& value) {
  uint64_t entry = codes.look[reader.bits >> (64 - LOOK_BITS)];
  if (__builtin_expect(!(entry & 63), 0)) entry = long_entry(reader.bits, codes);
  const uint32_t ones = uint32_t(entry >> 32), magnitude = uint32_t(reader.bits >> (-entry & 63)) & ones;
  value = int(magnitude - (ones & -uint32_t(magnitude <= ones >> 1)));  // no branch: signs are as chance has them
  reader.bits <<= entry & 63;
  reader.count -= entry & 63;
  return entry;
}

// What a component's blocks are read with.
struct Component {
  const Codes *dc, *ac;
  uint16_t quant[64 + END];  // in the order of the file, and what its end multiplies
  int last_dc;
};

struct Order {  // of the file -> of the block; what is beyond it goes where nobody looks
  uint8_t place[64 + END];
  Order() {
    for (int k = 0; k < 64 + END; ++k) place[k] = k < 64 ? ZIGZAG[k] : 64;
  }
};
const Order ORDER;

// The next coefficients that are not 0, or the end: k and what it was. false: the code is damaged.
inline bool read_one(Reader& reader, const Component& own, const Codes& codes, int16_t* block, uint32_t& k) {
  int value;
  const uint64_t entry = next_code(reader, codes, value);
  k += entry >> 16 & 255;
  block[ORDER.place[k]] = int16_t(value * own.quant[k]);
  ++k;
  return entry != 0;
}

bool read_block(Reader& kept, Component& own, int16_t* block) {
  Reader reader = kept;  // in registers
  memset(block, 0, 64 * sizeof *block);
  int value;
  reader.fill();
  if (!next_code(reader, *own.dc, value)) return false;
  own.last_dc += value;
  block[0] = int16_t(own.last_dc * own.quant[0]);
  const Codes& codes = *own.ac;
  uint32_t k = 1;
  while (k < 64) {
    reader.fill();
    if (!read_one(reader, own, codes, block, k)) return false;
    if (k >= 64) break;
    if (!read_one(reader, own, codes, block, k)) return false;  // 56 bits are enough for two
  }
  kept = reader;
  return k == 64 || k > END;  // else it skips beyond the block
}

// Sixteen numbers: eight of each of two blocks. Words: so that those of a damaged file may overflow.
typedef int32_t Lanes __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int16_t Eight __attribute__((vector_size(16)));

inline Words loaded(const int16_t* a, const int16_t* b) {
  Eight x, y;
  memcpy(&x, a, 16);
  memcpy(&y, b, 16);
  return (Words)__builtin_convertvector(
      __builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), Lanes);
}

template <int SHIFT>
inline Words scaled(Words x) {
  return (Words)((Lanes)(x + (1u << (SHIFT - 1))) >> SHIFT);
}

// jidctint.c: eight points, results scaled up by 2^(13 - SHIFT).
template <int SHIFT>
inline void transform(Words* x) {
  const Words even = (x[2] + x[6]) * 4433u, low = (x[0] + x[4]) << 13, high = (x[0] - x[4]) << 13;
  const Words t2 = even - x[6] * 15137u, t3 = even + x[2] * 6270u;
  const Words t10 = low + t3, t13 = low - t3, t11 = high + t2, t12 = high - t2;
  const Words z5 = (x[7] + x[3] + x[5] + x[1]) * 9633u;
  const Words z1 = (x[7] + x[1]) * 7373u, z2 = (x[5] + x[3]) * 20995u;
  const Words z3 = z5 - (x[7] + x[3]) * 16069u, z4 = z5 - (x[5] + x[1]) * 3196u;
  const Words o0 = x[7] * 2446u - z1 + z3, o1 = x[5] * 16819u - z2 + z4;
  const Words o2 = x[3] * 25172u - z2 + z3, o3 = x[1] * 12299u - z1 + z4;
  x[0] = scaled<SHIFT>(t10 + o3), x[7] = scaled<SHIFT>(t10 - o3);
  x[1] = scaled<SHIFT>(t11 + o2), x[6] = scaled<SHIFT>(t11 - o2);
  x[2] = scaled<SHIFT>(t12 + o1), x[5] = scaled<SHIFT>(t12 - o1);
  x[3] = scaled<SHIFT>(t13 + o0), x[4] = scaled<SHIFT>(t13 - o0);
}

#define PAIRS(x, y, a, b, c, d)                                                                                \
  __builtin_shufflevector(x, y, a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, \
                          b + 12, c + 12, d + 12)

inline void transpose(Words* x) {  // each of the two blocks
  Words t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = PAIRS(x[i], x[i + 1], 0, 16, 1, 17);
    t[i + 1] = PAIRS(x[i], x[i + 1], 2, 18, 3, 19);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = PAIRS(t[i + j], t[i + j + 2], 0, 1, 16, 17);
      x[i + 2 * j + 1] = PAIRS(t[i + j], t[i + j + 2], 2, 3, 18, 19);
    }
  for (int i = 0; i < 4; ++i) {
    t[i] = __builtin_shufflevector(x[i], x[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
    t[i + 4] = __builtin_shufflevector(x[i], x[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  memcpy(x, t, sizeof t);
}

// Two blocks of coefficients into two places of planes.
void two_blocks(const int16_t* a, const int16_t* b, uint8_t* out_a, int stride_a, uint8_t* out_b, int stride_b) {
  Words x[8];
  for (int i = 0; i < 8; ++i) x[i] = loaded(a + 8 * i, b + 8 * i);
  transform<11>(x);
  transpose(x);
  transform<18>(x);
  for (int i = 0; i < 8; ++i) {
    Lanes level = (Lanes)(x[i] + 128);
    level = level < 0 ? Lanes{} : level;
    x[i] = (Words)(level > 255 ? Lanes{} + 255 : level);
  }
  const Words left = x[0] | x[1] << 8 | x[2] << 16 | x[3] << 24;  // of each row
  const Words right = x[4] | x[5] << 8 | x[6] << 16 | x[7] << 24;
  for (int row = 0; row < 8; ++row) {
    const uint32_t own[2] = {left[row], right[row]}, other[2] = {left[8 + row], right[8 + row]};
    memcpy(out_a + row * stride_a, own, 8);
    memcpy(out_b + row * stride_b, other, 8);
  }
}

// jdsample.c, h2v2: a row of chroma twice as wide, three parts of the near row and one of the far one.
void upsampled(const uint8_t* near, const uint8_t* far, int width, int16_t* sums, uint8_t* out) {
  for (int i = 0; i < width; ++i) sums[i + 1] = int16_t(3 * near[i] + far[i]);
  sums[0] = sums[1];
  sums[width + 1] = sums[width];
  for (int i = 0; i < width; ++i) {
    const int own = 3 * sums[i + 1];
    out[2 * i] = uint8_t((own + sums[i] + 8) >> 4);
    out[2 * i + 1] = uint8_t((own + sums[i + 2] + 7) >> 4);
  }
}

inline uint8_t clamped(int value) { return uint8_t(value < 0 ? 0 : value > 255 ? 255 : value); }

// jdcolor.c: a row.
void coloured(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int width, uint8_t* __restrict out) {
  for (int i = 0; i < width; ++i) {
    const int blue = cb[i] - 128, red = cr[i] - 128, light = y[i];
    out[3 * i] = clamped(light + ((91881 * red + 32768) >> 16));
    out[3 * i + 1] = clamped(light + ((-22554 * blue - 46802 * red + 32768) >> 16));
    out[3 * i + 2] = clamped(light + ((116130 * blue + 32768) >> 16));
  }
}

// What a thread keeps from picture to picture.
struct Desk {
  Codes dc[2], ac[2];
  std::vector<uint8_t> scan, planes;
  std::vector<int16_t> sums;
};

struct Head {
  Component components[3];
  int horizontal = 1;  // MCUs have so many blocks of Y either way
  int width = 0, height = 0;
  const uint8_t* scan = nullptr;
};

inline int word(const uint8_t* p) { return p[0] << 8 | p[1]; }

bool frame(const uint8_t* p, int size, Head& head, int* quant_of) {
  if (size != 15 || p[0] != 8 || p[5] != 3) return false;
  head.height = word(p + 1), head.width = word(p + 3);
  for (int c = 0; c < 3; ++c) {
    const uint8_t* own = p + 6 + 3 * c;
    if (own[0] != c + 1 || own[2] > 3) return false;  // other names: other colours
    if (c == 0 ? own[1] != 0x11 && own[1] != 0x22 : own[1] != 0x11) return false;
    if (c == 0) head.horizontal = own[1] & 15;
    quant_of[c] = own[2];
  }
  return true;
}

// seen: of each table a bit, as `kind << 1 | number`.
bool tables(const uint8_t* p, int size, Desk& desk, int& seen) {
  while (size > 17) {
    int count = 0;
    for (int i = 1; i <= 16; ++i) count += p[i];
    const int kind = p[0] >> 4, number = p[0] & 15;
    if (kind > 1 || number > 1 || count > 256 || count + 17 > size) return false;
    if (!build((kind ? desk.ac : desk.dc)[number], p + 1, 16 + count, kind)) return false;
    seen |= 1 << (kind << 1 | number);
    p += 17 + count, size -= 17 + count;
  }
  return size == 0;
}

// Everything before the scan. false: not of the kind that is read here.
bool read_head(const uint8_t* data, int64_t size, Desk& desk, Head& head) {
  uint8_t quant[4][64] = {};
  int quant_of[3] = {}, quants = 0, codes = 0;  // what the file has had of each
  if (size < 4 || word(data) != 0xFFD8) return false;
  for (const uint8_t *p = data + 2, *end = data + size; p + 4 <= end;) {
    const int marker = word(p), length = word(p + 2);
    if (marker < 0xFFC0 || length < 2 || p + 2 + length > end) return false;
    const uint8_t* own = p + 4;
    p += 2 + length;
    if (marker == 0xFFDB) {
      if ((length - 2) % 65) return false;
      for (; own < p; own += 65) {
        if (own[0] > 3) return false;
        memcpy(quant[own[0]], own + 1, 64);
        quants |= 1 << own[0];
      }
    } else if (marker == 0xFFC0) {
      if (!frame(own, length - 2, head, quant_of)) return false;
    } else if (marker == 0xFFC4) {
      if (!tables(own, length - 2, desk, codes)) return false;
    } else if (marker == 0xFFDA) {
      if (!head.width || length != 12 || own[0] != 3 || own[7] != 0 || own[8] != 63 || own[9] != 0) return false;
      for (int c = 0; c < 3; ++c) {
        const int both = own[2 + 2 * c];
        const int dc = both >> 4, ac = both & 15;
        if (own[1 + 2 * c] != c + 1 || both & 0xEE || !(quants >> quant_of[c] & 1)) return false;
        if (!(codes >> dc & 1) || !(codes >> (2 | ac) & 1)) return false;
        Component& component = head.components[c];
        component = {desk.dc + dc, desk.ac + ac, {}, 0};
        for (int k = 0; k < 64; ++k) component.quant[k] = quant[quant_of[c]][k];
      }
      head.scan = p;
      return true;
    } else if (!(marker >= 0xFFE0 && marker < 0xFFEE) && marker != 0xFFFE) {  // Adobe's, restarts, other codings
      return false;
    }
  }
  return false;
}

// The scan without its stuffed zeros, and zeros after it; the bytes before its end. -1: it does not end as it should.
int64_t unstuffed(const uint8_t* p, const uint8_t* end, std::vector<uint8_t>& out) {
  out.resize(size_t(end - p) + MOST_BLOCK_BYTES);
  uint8_t* to = out.data();
  for (;;) {
    const auto* found = static_cast<const uint8_t*>(memchr(p, 0xFF, size_t(end - p)));
    if (!found || found + 2 > end) return -1;
    memcpy(to, p, size_t(found - p));
    to += found - p;
    p = found + 2;
    if (found[1] == 0xD9) break;
    if (found[1] != 0) return -1;
    *to++ = 0xFF;
  }
  memset(to, 0, MOST_BLOCK_BYTES);
  return to - out.data();
}

bool decode(const uint8_t* data, int64_t size, int64_t height, int64_t width, uint8_t* out) {
  thread_local Desk desk;
  Head head;
  if (!read_head(data, size, desk, head) || head.height != height || head.width != width) return false;
  const int twice = head.horizontal, w = int(width), h = int(height), cw = w / twice, ch = h / twice;
  if (w % 16 || h % (8 * twice)) return false;
  const int64_t there = unstuffed(head.scan, data + size, desk.scan);
  if (there < 0) return false;
  const size_t chroma = size_t(cw) * ch, luma = size_t(w) * h;
  desk.planes.resize(luma + 2 * chroma + size_t(2 * w));
  desk.sums.resize(size_t(cw + 2));
  uint8_t *y = desk.planes.data(), *cb = y + luma, *cr = cb + chroma;
  Reader reader{desk.scan.data()};
  const uint8_t* last = desk.scan.data() + there;
  alignas(64) int16_t blocks[6][72];  // one MCU of 4:2:0, two of 4:4:4; the 65th takes what a damaged one writes
  for (int row = 0; row < h; row += 8 * twice)
    for (int x = 0; x < w; x += 16) {
      for (int b = 0; b < 6; ++b) {
        const int component = twice == 2 ? (b < 4 ? 0 : b - 3) : b % 3;
        if (reader.next > last + 8 || !read_block(reader, head.components[component], blocks[b])) return false;
      }
      uint8_t* own = y + size_t(row) * w + x;
      const size_t place = size_t(row / twice) * cw + x / twice;
      if (twice == 2) {
        two_blocks(blocks[0], blocks[1], own, w, own + 8, w);
        two_blocks(blocks[2], blocks[3], own + 8 * w, w, own + 8 * w + 8, w);
        two_blocks(blocks[4], blocks[5], cb + place, cw, cr + place, cw);
      } else {
        two_blocks(blocks[0], blocks[3], own, w, own + 8, w);
        two_blocks(blocks[1], blocks[4], cb + place, cw, cb + place + 8, cw);
        two_blocks(blocks[2], blocks[5], cr + place, cw, cr + place + 8, cw);
      }
    }
  const int64_t left = there * 8 - ((reader.next - desk.scan.data()) * 8 - reader.count);
  if (left < 0 || left > 7) return false;  // it ended too early, or not where it should
  uint8_t* wide = cr + chroma;
  for (int row = 0; row < h; ++row) {
    const uint8_t *blue = cb + size_t(row) * cw, *red = cr + size_t(row) * cw;
    if (twice == 2) {
      const int near = row / 2, far = row % 2 ? (near + 1 < ch ? near + 1 : near) : (near ? near - 1 : near);
      upsampled(cb + size_t(near) * cw, cb + size_t(far) * cw, cw, desk.sums.data(), wide);
      upsampled(cr + size_t(near) * cw, cr + size_t(far) * cw, cw, desk.sums.data(), wide + w);
      blue = wide, red = wide + w;
    }
    coloured(y + size_t(row) * w, blue, red, w, out + size_t(row) * w * 3);
  }
  return true;
}

}  // namespace

// Pictures into out: (count, height, width, 3). done: 1 for each that was decoded.
extern "C" void decode_jpegs(int64_t count, const uint8_t* const* data, const int64_t* sizes, int64_t height,
                             int64_t width, uint8_t* out, uint8_t* done) {
  for (int64_t i = 0; i < count; ++i)
    done[i] = decode(data[i], sizes[i], height, width, out + i * height * width * 3);
}

// An allocator that keeps the large tensors of a CPU in one reserved range of huge pages.
//
// Training asks for tensors of the same sizes at every step. An allocator that gives memory back to
// the system pays a page fault, and zeros written, for each page of each tensor of each step. One
// that keeps large tensors among small objects has its memory in pieces after a while.
//
// `native/__init__.py` compiles the file on first use, against the headers of the PyTorch at hand.
#include <c10/core/Allocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

namespace {

// Tensors below a MiB are left to PyTorch's allocator: the C library reuses blocks of that size.
constexpr size_t LARGE = size_t{1} << 20;

// Asked of the system, because Linux on ARM may have pages of 16 or 64 KiB. Pages are given back
// whole: a block that ended inside one would take the beginning of its neighbor with it.
const size_t PAGE = size_t(sysconf(_SC_PAGESIZE));

// First fit, lowest address first, so that the pages in use stay together; adjacent free blocks are
// merged.
class Arena final : public c10::Allocator {
 public:
  static Arena &only() {
    static Arena *arena = new Arena;  // never deleted: tensors may outlive static objects
    return *arena;
  }

  // Returns whether the arena could be reserved. Calls may be nested.
  bool begin() {
    std::lock_guard<std::mutex> guard(lock);
    if (start == nullptr && !reserve()) return false;
    if (users++ == 0) {
      fallback = c10::GetAllocator(c10::DeviceType::CPU);
      // 255 is the highest priority: a lower one would leave the present allocator in place.
      c10::SetAllocator(c10::DeviceType::CPU, this, 255);
    }
    return true;
  }

  // Gives free memory back to the system; tensors that are still in use keep theirs.
  void end() {
    std::lock_guard<std::mutex> guard(lock);
    if (--users > 0) return;
    c10::SetAllocator(c10::DeviceType::CPU, fallback, 255);
    for (auto [address, bytes] : free) madvise(address, bytes, MADV_DONTNEED);
  }

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < LARGE) return fallback->allocate(bytes);
    const size_t rounded = (bytes + PAGE - 1) / PAGE * PAGE;
    std::lock_guard<std::mutex> guard(lock);
    for (auto block = free.begin(); block != free.end(); ++block) {
      if (block->second < rounded) continue;
      auto [address, room] = *block;
      free.erase(block);
      if (room > rounded) free[address + rounded] = room - rounded;
      used[address] = rounded;
      return {address, address, &deallocate, c10::Device(c10::DeviceType::CPU)};
    }
    return fallback->allocate(bytes);
  }

  c10::DeleterFnPtr raw_deleter() const override { return &deallocate; }

  void copy_data(void *to, const void *from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }

 private:
  std::mutex lock;
  char *start = nullptr;
  size_t size = 0;
  int users = 0;
  std::map<char *, size_t> free, used;  // bytes of each block, by address
  c10::Allocator *fallback = nullptr;   // PyTorch's own: for small tensors, and if no block fits

  // Reserves as many addresses as the machine has memory. A page takes memory when it is first
  // written, so the reservation itself costs nothing.
  bool reserve() {
    size = size_t(sysconf(_SC_PHYS_PAGES)) * PAGE;
    void *range = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return false;
    madvise(range, size, MADV_HUGEPAGE);
    start = static_cast<char *>(range);
    free[start] = size;
    return true;
  }

  // PyTorch also calls this, by `raw_deleter`, for pointers that came from the fallback. They lie
  // outside of the range.
  static void deallocate(void *pointer) {
    Arena &arena = only();
    char *address = static_cast<char *>(pointer);
    if (address < arena.start || address >= arena.start + arena.size)
      return arena.fallback->raw_deallocate(pointer);
    std::lock_guard<std::mutex> guard(arena.lock);
    auto block = arena.used.find(address);
    // Of a tensor that has outlived the arena: no other will use its pages.
    if (arena.users == 0) madvise(address, block->second, MADV_DONTNEED);
    auto freed = arena.free.emplace(address, block->second).first;
    arena.used.erase(block);
    if (auto next = std::next(freed); next != arena.free.end()) arena.merge(freed, next);
    if (freed != arena.free.begin()) arena.merge(std::prev(freed), freed);
  }

  void merge(std::map<char *, size_t>::iterator one, std::map<char *, size_t>::iterator next) {
    if (one->first + one->second != next->first) return;
    one->second += next->second;
    free.erase(next);
  }
};

}  // namespace

// Returns whether the arena could be reserved.
extern "C" int arena_begin() { return Arena::only().begin(); }

extern "C" void arena_end() { Arena::only().end(); }

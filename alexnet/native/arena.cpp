// Large tensors on a CPU in one stretch of huge pages. Training asks for the same sizes at every step; an allocator that
// gives them back to the system meets a page fault, and zeros written, for each page of each tensor of each step, and
// one that keeps them among small things is in pieces after a while. Compiled on first use by native.py.
#include <c10/core/Allocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <map>
#include <mutex>

namespace {

constexpr size_t LARGE = size_t{1} << 20, PAGE = 4096;

// First fit, lowest address first; neighbours that are free become one.
class Arena final : public c10::Allocator {
 public:
  static Arena &only() {
    static Arena *arena = new Arena;  // tensors outlive static objects
    return *arena;
  }

  bool begin() {
    std::lock_guard<std::mutex> held(lock);
    if (start == nullptr && !reserve()) return false;
    if (users++ == 0) {
      others = c10::GetAllocator(c10::DeviceType::CPU);
      c10::SetAllocator(c10::DeviceType::CPU, this, 255);
    }
    return true;
  }

  // What is free goes back to the system; tensors that still live stay where they are.
  void end() {
    std::lock_guard<std::mutex> held(lock);
    if (--users > 0) return;
    c10::SetAllocator(c10::DeviceType::CPU, others, 255);
    for (auto [place, bytes] : free) madvise(place, bytes, MADV_DONTNEED);
  }

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < LARGE) return others->allocate(bytes);
    const size_t wanted = (bytes + PAGE - 1) / PAGE * PAGE;
    std::lock_guard<std::mutex> held(lock);
    for (auto at = free.begin(); at != free.end(); ++at) {
      if (at->second < wanted) continue;
      auto [place, room] = *at;
      free.erase(at);
      if (room > wanted) free[place + wanted] = room - wanted;
      used[place] = wanted;
      return {place, place, &give_back, c10::Device(c10::DeviceType::CPU)};
    }
    return others->allocate(bytes);
  }

  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

  void copy_data(void *to, const void *from, size_t bytes) const override { std::memcpy(to, from, bytes); }

 private:
  std::mutex lock;
  char *start = nullptr;
  size_t size = 0;
  int users = 0;
  std::map<char *, size_t> free, used;
  c10::Allocator *others = nullptr;  // PyTorch's own: small things, and all where the stretch is full

  // Address space for as much as the machine has; memory is taken page by page as it is first written.
  bool reserve() {
    size = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE)) / PAGE * PAGE;
    void *found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return false;
    madvise(found, size, MADV_HUGEPAGE);
    start = static_cast<char *>(found);
    free[start] = size;
    return true;
  }

  static void give_back(void *given) {
    Arena &arena = only();
    char *place = static_cast<char *>(given);
    if (place < arena.start || place >= arena.start + arena.size) return arena.others->raw_deallocate(given);
    std::lock_guard<std::mutex> held(arena.lock);
    auto found = arena.used.find(place);
    auto at = arena.free.emplace(place, found->second).first;
    arena.used.erase(found);
    if (auto next = std::next(at); next != arena.free.end()) arena.join(at, next);
    if (at != arena.free.begin()) arena.join(std::prev(at), at);
  }

  void join(std::map<char *, size_t>::iterator one, std::map<char *, size_t>::iterator next) {
    if (one->first + one->second != next->first) return;
    one->second += next->second;
    free.erase(next);
  }
};

}  // namespace

// Whether there was room for it.
extern "C" int arena_begin() { return Arena::only().begin(); }

extern "C" void arena_end() { Arena::only().end(); }

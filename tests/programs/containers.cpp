/* C++ allocations by the function that made the container: operator new, templates and the library
 * lie between it and malloc, hence depth=any. Sizes are those of libstdc++ on 64 bits.
 * TRUTH
 *   site fill_vector calls=11 bytes=8188 live_blocks=1 live_bytes=4096 depth=any
 *   site scoped_vector calls=5 bytes=2000 temporary=5 depth=any
 *   site fill_map calls=100 bytes=4800 live_blocks=100 live_bytes=4800 depth=any
 *   site fill_list calls=50 bytes=1200 live_blocks=50 live_bytes=1200 depth=any
 *   site long_strings calls=20 bytes=2020 live_blocks=20 live_bytes=2020 depth=any
 *   site short_strings depth=any
 *   site new_array calls=10 bytes=1000 live_blocks=10 live_bytes=1000 depth=any
 *   site new_array_with_cookie calls=10 bytes=480 live_blocks=5 live_bytes=240 depth=any
 *   site new_over_aligned calls=9 bytes=1728 live_blocks=7 live_bytes=1344 temporary=1 depth=any
 *   site new_nothrow_fails calls=3 bytes=408 temporary=3 failed=3 depth=any
 *   site new_throws calls=2 bytes=272 temporary=2 failed=2 depth=any
 *   site make_shared_pairs calls=15 bytes=480 live_blocks=15 live_bytes=480 depth=any
 *   site unique_moved calls=12 bytes=480 live_blocks=12 live_bytes=480 depth=any
 *   site through_lambda calls=9 bytes=90 live_blocks=9 live_bytes=90 depth=any
 *   site Widget::grow calls=6 bytes=42 live_blocks=6 live_bytes=42 depth=any
 *   foreign libstdc++
 *   total unknown_frees=0
 * END
 * libstdc++ makes its emergency pool at start (72704 bytes) and one block of 136 bytes an exception,
 * inside the nothrow forms as well.
 */
#include "truth.h"
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

/* Storage that is never destroyed and makes no allocation of its own. */
template <typename T> struct Forever {
    alignas(T) unsigned char room[sizeof(T)];
    T *make() { return new (room) T(); }
};

static Forever<std::vector<int>> vector_room;
static Forever<std::map<int, long>> map_room;
static Forever<std::list<long>> list_room;

SITE void fill_vector() {
    auto *v = vector_room.make();
    for (int i = 0; i < 1000; i++) v->push_back(i);
    keep(v->data());
}

SITE void scoped_vector() {
    for (int i = 0; i < 5; i++) {
        std::vector<long> v(50);
        keep(v.data());
    }
}

SITE void fill_map() {
    auto *m = map_room.make();
    for (int i = 0; i < 100; i++) (*m)[i * 7 % 101] = i;
    keep(m);
}

/* A node is two pointers and a long: 24 bytes. */
SITE void fill_list() {
    auto *l = list_room.make();
    for (int i = 0; i < 50; i++) l->push_back(i);
    keep(l);
}

static Forever<std::string> string_rooms[20];

SITE void long_strings() {
    for (auto &room : string_rooms) {
        room.make()->assign(100, 'x');
    }
}

SITE void short_strings() {
    for (int i = 0; i < 10; i++) {
        std::string s(15, 'y');
        keep(&s);
    }
}

SITE void new_array() {
    for (int i = 0; i < 10; i++) keep(new char[100]);
}

struct Costly {
    double value;
    ~Costly() { keep(this); }
};

/* Five of 8 bytes and a cookie of 8. */
SITE Costly *new_array_with_cookie() {
    auto *array = new Costly[5];
    keep(array);
    return array;
}

struct alignas(64) Wide {
    char bytes[192];
};

SITE Wide *new_over_aligned() {
    auto *wide = new Wide;
    must(((uintptr_t)keep(wide) & 63) == 0, "alignment of new");
    return wide;
}

SITE void new_nothrow_fails() {
    for (int i = 0; i < 3; i++) {
        must(keep(new (std::nothrow) char[HUGE_SIZE]) == nullptr, "new of 4 EiB");
    }
}

SITE void new_throws() {
    for (int i = 0; i < 2; i++) {
        try {
            keep(new char[HUGE_SIZE]);
            must(false, "new of 4 EiB");
        } catch (const std::bad_alloc &) {
        }
    }
}

struct Pair {
    long a, b;
};

/* Control block (16) and object (16) in one. */
SITE void make_shared_pairs() {
    static Forever<std::shared_ptr<Pair>> rooms[15];
    for (auto &room : rooms) *room.make() = std::make_shared<Pair>();
}

SITE void unique_moved() {
    static Forever<std::unique_ptr<long[]>> rooms[12];
    for (auto &room : rooms) {
        auto made = std::make_unique<long[]>(5);
        *room.make() = std::move(made);
    }
}

SITE void call(const std::function<void()> &f) {
    f();
    keep(nullptr);
}

SITE void through_lambda() {
    call([] {
        for (int i = 0; i < 9; i++) keep(operator new(10));
    });
}

struct Widget {
    SITE void grow() { keep(new char[7]); }
};

static void prepare() {}

static void workload() {
    fill_vector();
    scoped_vector();
    fill_map();
    fill_list();
    long_strings();
    short_strings();
    new_array();
    Costly *arrays[10];
    Wide *wide[8];
    for (auto &array : arrays) array = new_array_with_cookie();
    for (auto &block : wide) block = new_over_aligned();
    for (int i = 0; i < 5; i++) delete[] arrays[i];
    delete new_over_aligned();
    delete wide[0];
    new_nothrow_fails();
    new_throws();
    make_shared_pairs();
    unique_moved();
    through_lambda();
    Widget widget;
    for (int i = 0; i < 6; i++) widget.grow();
}

TRUTH_MAIN

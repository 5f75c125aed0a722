// Namespaces, templates, lambdas, members, anonymous namespaces, operators, destructors.
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace app {
namespace {
__attribute__((noinline)) int hidden(int value)
{
    return value * 3 + 1;
}
} // namespace

template <typename Key, typename Value>
class Cache {
public:
    explicit Cache(std::size_t limit) : limit_(limit) {}
    ~Cache() { entries_.clear(); }

    __attribute__((noinline)) void put(const Key &key, Value value)
    {
        if (entries_.size() >= limit_)
            evict();
        entries_[key] = std::move(value);
    }

    const Value &operator[](const Key &key) const { return entries_.at(key); }

private:
    void evict() { entries_.erase(entries_.begin()); }

    std::map<Key, Value> entries_;
    std::size_t limit_;
};

template <int N>
__attribute__((noinline)) int unrolled(const std::vector<int> &values)
{
    int sum = 0;
    for (int value : values)
        sum += value * N;
    return sum;
}

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
};

struct Square final : Shape {
    explicit Square(double side) : side(side) {}
    double area() const override { return side * side; }
    double side;
};

__attribute__((noinline)) int apply(const std::function<int(int)> &function, int value)
{
    return function(value);
}
} // namespace app

int main(int argc, char **)
{
    app::Cache<std::string, std::unique_ptr<app::Shape>> cache(2);
    cache.put("one", std::make_unique<app::Square>(1.5));
    cache.put("two", std::make_unique<app::Square>(argc));
    auto scaled = [argc](int value) { return app::hidden(value) * argc; };
    std::vector<int> values{1, 2, argc};
    std::printf("%f %d %d\n", cache["two"]->area(), app::apply(scaled, 4),
                app::unrolled<7>(values) + app::unrolled<2>(values));
    return 0;
}

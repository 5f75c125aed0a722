//! Functions that allocate on behalf of their caller.
//!
//! The innermost frame of a stack is whoever called `malloc`. In C++ that is always `operator new`,
//! in Rust always `__rust_alloc`'s implementation, and above it a container of the standard library:
//! ranked by that frame a report would say "operator new leaks 2 GiB". So the *call site* of a
//! stack is its first frame that is not listed here. Frames are only passed over in choosing the
//! call site; every stack is printed whole.
//!
//! Listed are:
//! - the allocator interface of each language (C, C++, Rust, GLib) with its internals;
//! - libc functions whose contract is to hand the caller a block to free (`strdup`, `asprintf`);
//! - containers, strings, smart pointers of the C++ and Rust standard libraries.
//!
//! Not listed, on purpose: a program's own `xmalloc`, pools, arenas and string classes. They look
//! alike from here, but which of them is "the" call site only their authors know; their callers
//! are in the stacks right below.

/// C functions, also with a suffix such as `.cold` or `@plt`.
const C_FUNCTIONS: &[&str] = &[
    // The allocator itself, seen when one of its functions calls another.
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "__libc_malloc",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_reallocarray",
    "__libc_memalign",
    "__libc_valloc",
    "__libc_pvalloc",
    "__posix_memalign",
    // Blocks that the caller must free by contract.
    "strdup",
    "__strdup",
    "strndup",
    "__strndup",
    "wcsdup",
    "__wcsdup",
    "asprintf",
    "__asprintf",
    "___asprintf",
    "vasprintf",
    "__vasprintf",
    "__vasprintf_internal",
    "__vasprintf_chk",
    "__asprintf_chk",
    // GLib.
    "g_malloc",
    "g_malloc0",
    "g_malloc_n",
    "g_malloc0_n",
    "g_realloc",
    "g_realloc_n",
    "g_try_malloc",
    "g_try_malloc0",
    "g_try_malloc_n",
    "g_try_malloc0_n",
    "g_try_realloc",
    "g_try_realloc_n",
    "g_aligned_alloc",
    "g_aligned_alloc0",
    "g_slice_alloc",
    "g_slice_alloc0",
    // The C++ runtime's block for an exception object: the call site is the `throw`.
    "__cxa_allocate_exception",
    // rustc's allocator shims, before and after they got a crate of their own.
    "__rust_alloc",
    "__rust_alloc_zeroed",
    "__rust_realloc",
    "__rdl_alloc",
    "__rdl_alloc_zeroed",
    "__rdl_realloc",
    "__rg_alloc",
    "__rg_alloc_zeroed",
    "__rg_realloc",
];

/// Paths in Rust's standard library. `std::` is not listed whole: what `std::thread` or `std::rt`
/// keep for themselves is theirs.
const RUST_PATHS: &[&str] = &[
    "__rustc::",
    "alloc::",
    "hashbrown::",
    "core::alloc::",
    "core::clone::",
    "core::convert::",
    "core::default::",
    "core::iter::",
    "core::ptr::",
    "std::alloc::",
    "std::collections::",
    "std::sys::alloc::",
    "std::sys::pal::unix::alloc::",
    "std::sys::unix::alloc::",
    "std::sys_common::alloc::",
];

/// Members of C++'s `std` that own memory for their user. Names beginning with an underscore
/// (`_Vector_base`, `__new_allocator`, `__shared_count`) are internals and need no listing.
const CPP_STD: &[&str] = &[
    "allocate_shared",
    "allocator",
    "allocator_traits",
    "any",
    "basic_ostringstream",
    "basic_string",
    "basic_stringbuf",
    "basic_stringstream",
    "construct_at",
    "deque",
    "forward_list",
    "function",
    "getline",
    "list",
    "make_shared",
    "make_unique",
    "map",
    "multimap",
    "multiset",
    "operator",
    "pmr",
    "priority_queue",
    "queue",
    "set",
    "shared_ptr",
    "stack",
    "string",
    "to_string",
    "uninitialized_copy",
    "uninitialized_copy_n",
    "uninitialized_default_construct",
    "uninitialized_fill",
    "uninitialized_fill_n",
    "uninitialized_move",
    "unique_ptr",
    "unordered_map",
    "unordered_multimap",
    "unordered_multiset",
    "unordered_set",
    "vector",
];

/// Versioned inline namespaces of the C++ standard libraries.
const CPP_INLINE_NAMESPACES: &[&str] = &["__cxx11::", "__1::", "__ndk1::", "__8::"];

/// True when the function, by its demangled name, allocates on behalf of its caller.
pub fn is_wrapper(function: &str) -> bool {
    if is_operator_new(function) || function.contains(" as core::alloc::global::GlobalAlloc>::") {
        return true;
    }
    let bare = function.split(['.', '@']).next().unwrap_or(function);
    if C_FUNCTIONS.contains(&bare) {
        return true;
    }
    let path = path_of(function);
    RUST_PATHS.iter().any(|prefix| path.starts_with(prefix)) || is_cpp_std(path)
}

fn is_operator_new(function: &str) -> bool {
    // Mangled too: a binary may be too odd for its names to be demangled.
    if function.starts_with("_Znw") || function.starts_with("_Zna") {
        return true;
    }
    let rest = function.strip_prefix("operator new");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', '[', '@', '.']))
}

fn is_cpp_std(path: &str) -> bool {
    if path.starts_with("__gnu_cxx::") {
        return true;
    }
    let Some(mut rest) = path.strip_prefix("std::") else { return false };
    for namespace in CPP_INLINE_NAMESPACES {
        rest = rest.strip_prefix(namespace).unwrap_or(rest);
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let name = &rest[..end];
    name.starts_with('_') || CPP_STD.binary_search(&name).is_ok()
}

/// The part of a demangled name that begins with the function's own path: the return type of a C++
/// template function and the `<` of a Rust impl are in front of it.
fn path_of(function: &str) -> &str {
    if let Some(inner) = function.strip_prefix('<') {
        // `<T as alloc::string::ToString>::to_string`: only the trait says whose it is. A type of
        // the program's own has a path, and then the function is the program's.
        return match inner.split_once(" as ") {
            Some((this, by_trait)) if !this.contains("::") => by_trait,
            _ => inner,
        };
    }
    let mut depth = 0u32;
    let mut start = 0;
    let mut before = ' ';
    for (at, c) in function.char_indices() {
        match c {
            '(' if depth == 0 => break,
            '<' | '(' | '[' | '{' => depth += 1,
            '>' if before == '-' => {}
            '>' | ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ' ' if depth == 0 => start = at + 1,
            _ => {}
        }
        before = c;
    }
    function[start..].trim_start_matches(['*', '&'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{CPP_STD, is_wrapper, path_of};

    #[test]
    fn the_list_can_be_searched() {
        assert!(CPP_STD.is_sorted());
    }

    #[test]
    fn allocators_and_containers_are_passed_over() {
        for name in [
            "malloc",
            "malloc@plt",
            "__libc_calloc",
            "realloc.cold",
            "strdup",
            "g_malloc0_n",
            "operator new(unsigned long)",
            "operator new[](unsigned long, std::nothrow_t const&)",
            "operator new",
            "_Znwm",
            "__gnu_cxx::new_allocator<int>::allocate(unsigned long, void const*)",
            "std::__new_allocator<int>::allocate(unsigned long, void const*)",
            "std::allocator<char>::allocate(unsigned long)",
            "std::allocator_traits<std::allocator<int> >::allocate(std::allocator<int>&, unsigned long)",
            "std::_Vector_base<int, std::allocator<int> >::_M_allocate(unsigned long)",
            "void std::vector<int, std::allocator<int> >::_M_realloc_insert<int>(int*, int&&)",
            "std::pair<std::_Rb_tree_iterator<int>, bool> std::_Rb_tree<int, int>::_M_insert_unique<int>(int&&)",
            "std::__cxx11::basic_string<char, std::char_traits<char> >::_M_create(unsigned long&, unsigned long)",
            "std::__1::vector<int>::push_back(int&&)",
            "std::shared_ptr<Foo> std::make_shared<Foo>()",
            "std::__cxx11::basic_string<char> std::operator+<char>(char const*, char const*)",
            "__rust_alloc",
            "__rustc::__rdl_alloc",
            "__rdl_realloc",
            "alloc::alloc::alloc",
            "alloc::alloc::Global::alloc_impl",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
            "<std::alloc::System as core::alloc::global::GlobalAlloc>::alloc",
            "<app::Counting as core::alloc::global::GlobalAlloc>::alloc",
            "std::sys::alloc::unix::<impl core::alloc::global::GlobalAlloc for std::alloc::System>::alloc",
            "alloc::raw_vec::RawVecInner<A>::finish_grow",
            "alloc::vec::Vec<T,A>::push",
            "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
            "<T as alloc::string::ToString>::to_string",
            "<str as alloc::string::SpecToString>::spec_to_string",
            "hashbrown::raw::RawTable<T,A>::reserve_rehash",
            "std::collections::hash::map::HashMap<K,V,S>::insert",
        ] {
            assert!(is_wrapper(name), "{name} as {}", path_of(name));
        }
    }

    #[test]
    fn the_programs_own_functions_are_call_sites() {
        for name in [
            "main",
            "xmalloc",
            "my_malloc",
            "malloc_stats",
            "operator_new",
            "pool::operator new_thing()",
            "Foo::operator()(int)",
            "stdx::vector<int>::push_back(int)",
            "std::thread::_State_impl<int>::_M_run()",
            "std::rt::lang_start",
            "std::thread::Builder::spawn",
            "app::alloc::take",
            "<app::Foo as core::clone::Clone>::clone",
            "<app::Foo as alloc::string::ToString>::to_string",
            "app::run::{{closure}}",
            "std::vector<int> app::load(std::string const&)",
            "(anonymous namespace)::load(std::vector<int>)",
            "PyObject_Malloc",
            "",
        ] {
            assert!(!is_wrapper(name), "{name} as {}", path_of(name));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(name in any::<String>(), odd in "[<>()a: &*\\-]{0,40}") {
            is_wrapper(&name);
            is_wrapper(&odd);
        }
    }
}

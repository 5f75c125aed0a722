//! Generics, traits, closures and inlined functions.

use std::collections::BTreeMap;

mod shapes {
    pub trait Area {
        fn area(&self) -> f64;
    }

    pub struct Square(pub f64);
    pub struct Circle<T>(pub T);

    impl Area for Square {
        #[inline(never)]
        fn area(&self) -> f64 {
            self.0 * self.0
        }
    }

    impl<T: Into<f64> + Copy> Area for Circle<T> {
        #[inline(never)]
        fn area(&self) -> f64 {
            let radius: f64 = self.0.into();
            radius * radius * std::f64::consts::PI
        }
    }
}

#[inline(never)]
fn largest<T: PartialOrd + Copy, I: IntoIterator<Item = T>>(items: I) -> Option<T> {
    let mut best = None;
    for item in items {
        if best.is_none_or(|b| item > b) {
            best = Some(item);
        }
    }
    best
}

#[inline(always)]
fn boxed(value: u32) -> Box<u32> {
    Box::new(value)
}

#[inline(never)]
fn collect(count: u32) -> BTreeMap<u32, Box<u32>> {
    (0..count).map(|n| (n, boxed(n * 2))).collect()
}

fn main() {
    use shapes::Area;
    let count = std::env::args().count() as u32 + 5;
    let map = collect(count);
    let shapes: Vec<Box<dyn Area>> =
        vec![Box::new(shapes::Square(2.0)), Box::new(shapes::Circle(count as f32))];
    let total: f64 = shapes.iter().map(|s| s.area()).sum();
    println!("{:?} {:?} {total}", largest(map.keys().copied()), largest([1.5, 2.5]));
}

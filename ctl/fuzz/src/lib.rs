//! Fuzz targets of what people and files tell `katran-xsk`. They are tests; there is nothing else.
//!
//! A plain test run replays the inputs in `__fuzz__` and some random ones; `cargo xtask fuzz TARGET`
//! looks for new ones, guided by the code that they reach. The package is one of its own because
//! cargo links a package's programs along with its tests, and a program without a fuzzer in it does
//! not link with the flags of fuzzing.
#![forbid(unsafe_code)]

#[cfg(test)]
mod admin;
#[cfg(test)]
mod capture;
#[cfg(test)]
mod configuration;

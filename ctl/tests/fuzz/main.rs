//! Fuzz targets of what people and files tell the program.
//!
//! A plain test run replays the inputs in `__fuzz__` and some random ones; `cargo xtask fuzz TARGET`
//! looks for new ones, guided by the code that they reach.
#![forbid(unsafe_code)]

mod admin;
mod capture;
mod configuration;

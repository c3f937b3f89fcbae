//! First and only process of the virtual machines that `cargo xtask vm` starts.

#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    benches::guest::run()
}

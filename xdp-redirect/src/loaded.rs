//! What the kernel holds, to find out whether anything is left behind.

use std::io;

use aya::{maps::loaded_maps, programs::loaded_programs};

/// Number of eBPF programs and of eBPF maps in the kernel, whoever loaded them. Needs
/// `CAP_SYS_ADMIN`.
pub fn loaded() -> io::Result<(usize, usize)> {
    let programs = loaded_programs().collect::<Result<Vec<_>, _>>();
    let maps = loaded_maps().collect::<Result<Vec<_>, _>>();
    Ok((
        programs.map_err(io::Error::other)?.len(),
        maps.map_err(io::Error::other)?.len(),
    ))
}

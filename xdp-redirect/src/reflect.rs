//! The `reflect` program: the least that a program which forwards can do.

use std::fmt;

use aya::maps::MapError;

use crate::{
    attach::Attachment,
    error::AttachError,
    mode::XdpMode,
    object::{self, Loaded, PerCpu, total},
};

/// A program that sends every frame back, on an interface. Dropping it detaches it.
pub struct ReflectProgram {
    _attachment: Attachment,
    _loaded: Loaded,
    counters: PerCpu<u64>,
}

impl fmt::Debug for ReflectProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReflectProgram").finish_non_exhaustive()
    }
}

impl ReflectProgram {
    /// Loads the program and attaches it.
    pub fn attach(interface: &str, mode: XdpMode) -> Result<Self, AttachError> {
        let mut loaded = object::REFLECT.load()?;
        let attachment = Attachment::new(loaded.program_mut()?, interface, mode)?;
        Ok(Self {
            _attachment: attachment,
            counters: loaded.map("COUNTERS")?,
            _loaded: loaded,
        })
    }

    /// Frames sent back so far.
    pub fn frames(&self) -> Result<u64, MapError> {
        total(&self.counters, 0, 0, u64::wrapping_add)
    }
}

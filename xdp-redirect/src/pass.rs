//! The `pass` program, for the far ends of veth pairs.

use crate::{
    attach::Attachment,
    error::AttachError,
    mode::{AttachedMode, XdpMode},
    object::{self, Loaded},
};

/// A program that hands every packet to the kernel, on an interface. Dropping it detaches it.
///
/// A veth delivers what its peer transmits by XDP only if it has a program itself.
pub struct PassProgram {
    attachment: Attachment,
    /// Holds the program while the link does.
    _loaded: Loaded,
}

impl std::fmt::Debug for PassProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PassProgram")
            .field(&self.attachment)
            .finish()
    }
}

impl PassProgram {
    /// Loads the program and attaches it.
    pub fn attach(interface: &str, mode: XdpMode) -> Result<Self, AttachError> {
        let mut loaded = object::PASS.load()?;
        let attachment = Attachment::new(loaded.program_mut()?, interface, mode)?;
        Ok(Self {
            attachment,
            _loaded: loaded,
        })
    }

    /// Mode the program is attached in.
    pub fn mode(&self) -> AttachedMode {
        self.attachment.mode
    }
}

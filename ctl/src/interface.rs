//! Whether the interface is still there, for those whom nothing else tells.

use anyhow::{Context as _, ensure};
use nix::net::if_::{if_nameindex, if_nametoindex};

/// An interface that was there once, whatever it is called now.
pub(crate) struct Presence {
    name: String,
    index: u32,
}

impl Presence {
    /// The interface of this name.
    pub(crate) fn of(name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            index: if_nametoindex(name).with_context(|| format!("interface {name}"))?,
        })
    }

    /// Fails when it was removed; a new one of the same name is another.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        // Not to know is not to have lost it.
        let Ok(interfaces) = if_nameindex() else {
            return Ok(());
        };
        ensure!(
            interfaces.iter().any(|other| other.index() == self.index),
            "interface {} was removed; restart once it is back",
            self.name
        );
        Ok(())
    }
}

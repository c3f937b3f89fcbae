//! What can be seen of the interface's link and queues while the balancer runs.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Whether packets can pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// They can.
    Up,
    /// The interface is up, and nobody is at the other end.
    NoCarrier,
    /// The interface was set down.
    Down,
}

/// The interface as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether packets can pass.
    pub state: LinkState,
    /// RX queues whose packets no worker gets.
    pub without_worker: Vec<u32>,
}

/// A [`Link`] that one thread keeps up to date and others read.
#[derive(Clone, Debug)]
pub struct SharedLink(Arc<Mutex<Link>>);

impl SharedLink {
    /// Starts with this.
    pub fn new(link: Link) -> Self {
        Self(Arc::new(Mutex::new(link)))
    }

    /// What was last seen.
    pub fn get(&self) -> Link {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What is seen now.
    pub fn set(&self, link: Link) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = link;
    }
}

//! What is known of the next hop beside its address.

use std::{net::IpAddr, time::Instant};

use serde::{Deserialize, Serialize};

/// How the next hop in use came to be it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextHopState {
    /// The configuration names it.
    Configured,
    /// The kernel knows the gateway's address now.
    Resolved,
    /// The kernel knew it, and does no longer: what is sent may reach nobody.
    Lost,
    /// There is none yet.
    #[default]
    Unknown,
}

/// The default route's gateway, as last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The one whose Ethernet address is in use, or else the one that is to be the next hop.
    pub gateway: Option<IpAddr>,
    /// Since when the kernel does not know the address any more that is in use.
    pub lost: Option<Instant>,
}

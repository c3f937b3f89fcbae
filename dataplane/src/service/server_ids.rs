//! Server ids that name reals.
//!
//! A set of ids never changes: whoever changes it makes a new one. So configurations, desired states and
//! tables of which none touches the ids share one, and nobody checks it again.

use std::{
    collections::HashSet,
    fmt,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use ahash::RandomState;
use hashbrown::HashMap;

use super::{first_few::first_few, spec::ServerIdSpec, table::MAX_REALS};

/// Largest server id: connection ids carry them as signed 32-bit numbers (katran-compat section 7.1).
pub const MAX_SERVER_ID: u32 = i32::MAX as u32;

/// Most server ids (katran-compat section 1).
pub const MAX_SERVER_IDS: usize = 1 << 24;

/// Why an id cannot be in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerIdError {
    /// The id is 0 or above [`MAX_SERVER_ID`].
    #[error("the id is out of range")]
    Range,
    /// Another element, at this place of the list, has the same id.
    #[error("the id is there already")]
    Twice(usize),
    /// There are more than [`MAX_SERVER_IDS`].
    #[error("{MAX_SERVER_IDS} server ids are the most there can be")]
    TooMany,
    /// More reals than there are numbers.
    #[error("the ids name more than {} different reals", MAX_REALS - 1)]
    TooManyReals,
}

struct Named {
    /// In the order of listing.
    ids: Box<[ServerIdSpec]>,
    /// Each once.
    reals: Box<[IpAddr]>,
    /// Place in `reals` for each valid id.
    places: HashMap<u32, u16, RandomState>,
}

/// A set of server ids, checked and ready to be looked up in. A copy shares what it was copied from.
#[derive(Clone)]
pub struct ServerIds(Arc<Named>);

impl ServerIds {
    /// Checks ids and builds the table.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, each with the id's place in the list.
    pub fn new(ids: Vec<ServerIdSpec>) -> Result<Self, Vec<(usize, ServerIdError)>> {
        if ids.len() > MAX_SERVER_IDS {
            return Err(vec![(MAX_SERVER_IDS, ServerIdError::TooMany)]);
        }
        let mut errors = Vec::new();
        let mut first: HashMap<u32, u32, RandomState> = HashMap::default();
        for (place, server_id) in ids.iter().enumerate() {
            if !(1..=MAX_SERVER_ID).contains(&server_id.id) {
                errors.push((place, ServerIdError::Range));
            }
            let first = *first.entry(server_id.id).or_insert(place as u32) as usize;
            if first != place {
                errors.push((place, ServerIdError::Twice(first)));
            }
        }
        let set = Self::of_checked(ids);
        if set.reals().len() >= MAX_REALS {
            errors.push((0, ServerIdError::TooManyReals));
        }
        if errors.is_empty() {
            Ok(set)
        } else {
            Err(errors)
        }
    }

    fn of_checked(ids: Vec<ServerIdSpec>) -> Self {
        let mut places = HashMap::default();
        let mut reals = Vec::new();
        let mut known: HashMap<IpAddr, u16, RandomState> = HashMap::default();
        for server_id in &ids {
            let place = *known.entry(server_id.real).or_insert_with(|| {
                reals.push(server_id.real);
                (reals.len() - 1) as u16
            });
            if server_id.valid {
                places.insert(server_id.id, place);
            }
        }
        Self(Arc::new(Named {
            ids: ids.into(),
            reals: reals.into(),
            places,
        }))
    }

    /// These ids, of which some name a real, valid, whatever they named before.
    ///
    /// # Errors
    ///
    /// As for [`Self::new`].
    pub fn with(&self, ids: &[u32], real: IpAddr) -> Result<Self, Vec<(usize, ServerIdError)>> {
        let new = |id| ServerIdSpec {
            id,
            real,
            valid: true,
        };
        let mut added: HashSet<u32> = ids.iter().copied().collect();
        let mut all = self.0.ids.to_vec();
        for server_id in &mut all {
            if added.remove(&server_id.id) {
                *server_id = new(server_id.id);
            }
        }
        // What is left in the order of the list, each once.
        all.extend(ids.iter().filter(|id| added.remove(*id)).map(|id| new(*id)));
        Self::new(all)
    }

    /// These ids without some.
    #[must_use]
    pub fn without(&self, ids: &HashSet<u32>) -> Self {
        let kept = self.iter().filter(|server_id| !ids.contains(&server_id.id));
        Self::of_checked(kept.copied().collect())
    }

    /// These ids, of which workers use some from now on, or no longer.
    #[must_use]
    pub fn with_valid(&self, ids: &HashSet<u32>, valid: bool) -> Self {
        let changed = self.iter().map(|server_id| ServerIdSpec {
            valid: if ids.contains(&server_id.id) {
                valid
            } else {
                server_id.valid
            },
            ..*server_id
        });
        Self::of_checked(changed.collect())
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.0.ids.len()
    }

    /// No ids.
    pub fn is_empty(&self) -> bool {
        self.0.ids.is_empty()
    }

    /// All ids, in the order of listing.
    pub fn iter(&self) -> impl Iterator<Item = &ServerIdSpec> {
        self.0.ids.iter()
    }

    /// Reals that ids name, also those that are not valid, each once.
    pub fn reals(&self) -> &[IpAddr] {
        &self.0.reals
    }

    /// Place in [`Self::reals`] of the real that a valid id names.
    #[inline]
    pub fn place(&self, id: u32) -> Option<u16> {
        self.0.places.get(&id).copied()
    }

    /// Both share what they have: nothing was copied between them.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Default for ServerIds {
    /// No ids; all such sets share one.
    fn default() -> Self {
        static EMPTY: LazyLock<ServerIds> = LazyLock::new(|| {
            ServerIds(Arc::new(Named {
                ids: Box::default(),
                reals: Box::default(),
                places: HashMap::default(),
            }))
        });
        EMPTY.clone()
    }
}

impl PartialEq for ServerIds {
    /// The same ids in the same order. Sets that share them are not compared id by id.
    fn eq(&self, other: &Self) -> bool {
        self.shares(other) || self.0.ids == other.0.ids
    }
}

impl Eq for ServerIds {}

impl fmt::Debug for ServerIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        first_few(f, self.iter(), self.len())
    }
}

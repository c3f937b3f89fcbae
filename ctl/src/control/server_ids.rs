//! Changes of server ids: which real an id names, and whether workers use it.

use std::{collections::HashSet, net::IpAddr};

use dataplane::service::{MAX_SERVER_ID, ServerIdSpec, ServerIds};

use super::{Changes, Control};
use crate::{admin::AdminError, config::describe_server_id};

/// Which server ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichServerIds {
    /// These.
    Ids(Vec<u32>),
    /// All that name this real.
    OfReal(IpAddr),
}

impl Control {
    /// Lets ids name a real, valid from now on. Warns of those that named another one.
    pub fn add_server_ids(&mut self, ids: &[u32], real: IpAddr) -> Result<Changes, AdminError> {
        let known = &self.config.server_ids;
        let new = known.with(ids, real).map_err(|errors| {
            let (_, error) = errors[0];
            let mut wrong = ids.iter().filter(|id| !(1..=MAX_SERVER_ID).contains(*id));
            let id = wrong.next().copied().unwrap_or_default();
            let earlier = |_| "another in this command".to_owned();
            let (key, problem, remedy) = describe_server_id(error, id, earlier);
            AdminError::new(key, problem, remedy)
        })?;
        let warning = renamed(known, ids, real);
        let mut changes = self.commit_server_ids(new)?;
        changes.warnings.extend(warning);
        Ok(changes)
    }

    /// Removes ids; packets with them have no server id that anybody knows from now on.
    pub fn delete_server_ids(&mut self, ids: &[u32]) -> Result<Changes, AdminError> {
        let doomed = self.known_ids(ids)?;
        self.commit_server_ids(self.config.server_ids.without(&doomed))
    }

    /// Takes ids from the workers, or gives them back, without forgetting what they name.
    pub fn set_server_ids_valid(
        &mut self,
        which: &WhichServerIds,
        valid: bool,
    ) -> Result<Changes, AdminError> {
        let known = &self.config.server_ids;
        let wanted = match which {
            WhichServerIds::Ids(ids) => self.known_ids(ids)?,
            WhichServerIds::OfReal(real) => {
                let of_real = known.iter().filter(|server_id| server_id.real == *real);
                of_real.map(|server_id| server_id.id).collect()
            }
        };
        if let WhichServerIds::OfReal(real) = which
            && wanted.is_empty()
        {
            return Err(AdminError::new(
                "real",
                format!("no server id names {real}"),
                "`sid list` shows those there are",
            ));
        }
        self.commit_server_ids(known.with_valid(&wanted, valid))
    }

    fn commit_server_ids(&mut self, server_ids: ServerIds) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        config.server_ids = server_ids;
        self.commit(config)
    }

    /// The ids, all of which must name a real.
    fn known_ids(&self, ids: &[u32]) -> Result<HashSet<u32>, AdminError> {
        let mut missing: HashSet<u32> = ids.iter().copied().collect();
        let wanted = missing.clone();
        for server_id in self.config.server_ids.iter() {
            missing.remove(&server_id.id);
        }
        // The first in the order of the command.
        match ids.iter().find(|id| missing.contains(*id)) {
            None => Ok(wanted),
            Some(id) => Err(AdminError::new(
                "id",
                format!("{id} names no real"),
                "`sid list` shows the ids there are",
            )),
        }
    }
}

/// What to say of ids that named another real.
fn renamed(known: &ServerIds, ids: &[u32], real: IpAddr) -> Option<String> {
    let ids: HashSet<u32> = ids.iter().copied().collect();
    let mut renamed = known
        .iter()
        .filter(|server_id| server_id.real != real && ids.contains(&server_id.id));
    let ServerIdSpec { id, real, .. } = renamed.next()?;
    Some(match renamed.count() {
        0 => format!("server id {id} named {real} before"),
        more => format!("server id {id} named {real} before, and {more} more named other reals"),
    })
}

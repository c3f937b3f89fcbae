//! How a new [`ServiceTable`] reaches the workers: one atomic load per burst when nothing changed.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use arc_swap::ArcSwap;

use super::ServiceTable;

#[derive(Debug)]
struct Shared {
    /// Generation of `table`; written after it.
    generation: AtomicU32,
    table: ArcSwap<ServiceTable>,
}

/// The control plane's end. Workers subscribe before they start.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// Tables that some worker may still hold. They are dropped here, so that the memory of a large
    /// table is never freed by a worker.
    retired: Mutex<Vec<Arc<ServiceTable>>>,
}

impl Publisher {
    /// Starts with this table.
    pub fn new(table: Arc<ServiceTable>) -> Self {
        Self {
            shared: Arc::new(Shared {
                generation: AtomicU32::new(table.generation()),
                table: ArcSwap::new(table),
            }),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// A worker's end.
    pub fn subscribe(&self) -> Subscription {
        let table = self.shared.table.load_full();
        Subscription {
            seen: table.generation(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// The newest table.
    pub fn current(&self) -> Arc<ServiceTable> {
        self.shared.table.load_full()
    }

    /// Makes `table` the newest. Never waits for workers.
    pub fn publish(&self, table: Arc<ServiceTable>) {
        let generation = table.generation();
        let old = self.shared.table.swap(table);
        self.shared.generation.store(generation, Ordering::Release);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push(old);
        // A count of one is ours alone: every worker has moved on.
        retired.retain(|table| Arc::strong_count(table) > 1);
    }

    /// Drops retired tables that no worker holds any more; returns how many are left.
    pub fn collect(&self) -> usize {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|table| Arc::strong_count(table) > 1);
        retired.len()
    }
}

/// A worker's end of a [`Publisher`].
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    seen: u32,
}

impl Subscription {
    /// The table to use from now on, if it changed since the last call.
    #[inline]
    pub fn poll(&mut self) -> Option<Arc<ServiceTable>> {
        if self.shared.generation.load(Ordering::Acquire) == self.seen {
            return None;
        }
        let table = self.shared.table.load_full();
        self.seen = table.generation();
        Some(table)
    }

    /// The newest table, for the start.
    pub fn current(&self) -> Arc<ServiceTable> {
        self.shared.table.load_full()
    }
}

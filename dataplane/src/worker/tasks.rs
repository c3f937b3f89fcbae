//! What the control plane asks a worker to do between bursts.

use std::{collections::VecDeque, ops::ControlFlow};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::now_ns;
use crate::{capture::Monitor, forward::Forwarder};

/// What a question gets hold of.
pub(super) struct Asked<'a> {
    pub(super) forwarder: &'a mut Forwarder,
    pub(super) monitor: &'a mut Option<Box<Monitor>>,
    /// The worker's clock in nanoseconds.
    pub(super) now_ns: u64,
}

/// One step of a question; `Break` is the last.
pub(super) type Task = Box<dyn FnMut(Asked<'_>) -> ControlFlow<()> + Send>;

/// Questions that can wait in the channel, and questions a worker has under way at once.
const CAPACITY: usize = 64;

/// Ends of a channel for questions.
pub(super) fn channel() -> (Sender<Task>, Tasks) {
    let (sender, incoming) = bounded(CAPACITY);
    let under_way = VecDeque::with_capacity(CAPACITY);
    (
        sender,
        Tasks {
            incoming,
            under_way,
        },
    )
}

/// Questions of one worker. Each round one of them goes one step, in turn, so a long walk delays
/// neither the traffic nor a short question.
pub(super) struct Tasks {
    incoming: Receiver<Task>,
    under_way: VecDeque<Task>,
}

impl Tasks {
    /// Takes one step; returns whether there is more to do.
    #[inline]
    pub(super) fn step(
        &mut self,
        forwarder: &mut Forwarder,
        monitor: &mut Option<Box<Monitor>>,
    ) -> bool {
        if self.under_way.len() < CAPACITY
            && let Ok(task) = self.incoming.try_recv()
        {
            self.under_way.push_back(task);
        }
        let Some(mut task) = self.under_way.pop_front() else {
            return false;
        };
        let asked = Asked {
            forwarder,
            monitor,
            now_ns: now_ns(),
        };
        if task(asked).is_continue() {
            self.under_way.push_back(task);
        }
        !self.under_way.is_empty() || !self.incoming.is_empty()
    }
}

//! What the control plane asks a worker to do between bursts.

use std::{collections::VecDeque, ops::ControlFlow};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::now_ns;
use crate::forward::Forwarder;

/// One step of a question, with the worker's clock in nanoseconds; `Break` is the last.
pub(super) type Task = Box<dyn FnMut(&mut Forwarder, u64) -> ControlFlow<()> + Send>;

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
    pub(super) fn step(&mut self, forwarder: &mut Forwarder) -> bool {
        if self.under_way.len() < CAPACITY
            && let Ok(task) = self.incoming.try_recv()
        {
            self.under_way.push_back(task);
        }
        let Some(mut task) = self.under_way.pop_front() else {
            return false;
        };
        if task(forwarder, now_ns()).is_continue() {
            self.under_way.push_back(task);
        }
        !self.under_way.is_empty() || !self.incoming.is_empty()
    }
}
